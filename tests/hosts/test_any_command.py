"""`spinal run`: real commands, unchanged, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import saved
import tiny
import training
from paths import PYTHONPATH

from spinal_callback import SpinalCallback, load_trace
from spinal_callback.cli.main import main
from spinal_callback.hosts.any_command import watch

BIN = Path(sys.executable).parent
SPINAL = "import sys; from spinal_callback.cli.main import main; sys.exit(main())"
TRAIN = """
import sys
import training
training.trainer(sys.argv[1]).train()
"""


def spinal(*words, cwd, check=True, **variables):
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-c", SPINAL, "run", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, input="")
    assert not (check and done.returncode), done.stderr[-4000:]
    return done


# --- what trains


def test_trl_dpo_is_watched_as_it_is(tmp_path):
    """`trl dpo` has accelerate start a process, which trains."""
    saved.policy(tmp_path / "model")
    (tmp_path / "data").mkdir()
    rows = "".join(json.dumps(row) + "\n" for row in tiny.preferences())
    (tmp_path / "data" / "train.jsonl").write_text(rows)
    settings = {**tiny.SETTINGS, "max_steps": 2, "report_to": "none", "max_length": 64}
    settings |= {"model_name_or_path": "model", "dataset_name": "data", "output_dir": "run"}
    (tmp_path / "dpo.yaml").write_text(json.dumps(settings))
    spinal("every=1", "num_prompts=24", "--", BIN / "trl", "dpo", "--config", "dpo.yaml", cwd=tmp_path)
    trace = load_trace(tmp_path / "run")
    assert [r.step for r in trace.readings] == [0, 1, 2] and trace.header.prompts == 24
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_ranks_inherit_it(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    (tmp_path / "train.py").write_text(TRAIN)
    spinal("every=2", "--", *torchrun, "train.py", "run", cwd=tmp_path)
    assert [r.step for r in load_trace(tmp_path / "run").readings] == [0, 2, 4]


def test_a_trainer_that_has_a_callback_keeps_that_one_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SPINAL_RUN", json.dumps({"every": 1}))
    own = SpinalCallback(every=4)
    bare, watched = training.trainer(tmp_path), training.trainer(tmp_path, own)
    for trainer in (bare, watched):
        watch(trainer)
    (added,), kept = (
        [c for c in t.callback_handler.callbacks if isinstance(c, SpinalCallback)] for t in (bare, watched)
    )
    assert added.config.every == 1 and kept == [own]


# --- what else runs


def test_exit_code_arguments_and_output_are_the_commands_own(tmp_path):
    words = "import sys; print(sys.argv[1:]); sys.exit(7)"
    done = spinal("every=5", "--", sys.executable, "-c", words, "--every", "a b", "--", cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "['--every', 'a b', '--']\n", "")


def test_a_process_that_does_not_train_loads_nothing(tmp_path):
    heavy = "print([m for m in sys.modules if m.split('.')[0] in ('spinal_callback', 'torch', 'transformers')])"
    assert spinal("--", sys.executable, "-c", f"import sys; {heavy}", cwd=tmp_path).stdout == "[]\n"


def test_the_users_own_sitecustomize_still_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['MINE'] = 'ran'")
    path = os.pathsep.join([PYTHONPATH, str(tmp_path)])
    words = "import os, sys; print(os.environ['MINE'], sys.meta_path[0].__name__)"
    assert spinal("--", sys.executable, "-c", words, cwd=tmp_path, PYTHONPATH=path).stdout == "ran _Finder\n"


def test_a_python_without_the_package_says_so_when_it_trains(tmp_path):
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").touch()
    (tmp_path / "transformers" / "trainer.py").write_text("class Trainer: pass")
    (tmp_path / "train.py").write_text(
        "import sys; sys.modules['spinal_callback'] = None\nfrom transformers.trainer import Trainer; Trainer()"
    )
    done = spinal("--", tmp_path / "train.py", cwd=tmp_path, check=False)
    assert f"ImportError: spinal run: {sys.executable} does not have spinal_callback: install it there" in done.stderr


# --- what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evry=2", "--", "true"], "there is no setting evry (got evry=2): did you mean every?"),
        (["every=0", "--", "true"], 'every must be a whole number >= 1 or "auto", got 0'),
        (["rules=nowhere.json", "--", "true"], "nowhere.json: No such file or directory"),
        (["every", "2", "--", "true"], "'every' is not NAME=VALUE: write the settings, then --, then the command"),
        (["every=2"], "there is no --: write the settings, then --, then the command"),
        (["every=2", "--"], "no command to run: spinal run every=25 -- trl dpo --config dpo.yaml"),
        (["--", "no-such-command-1"], "there is no command no-such-command-1: what comes after -- is run as it would"),
    ],
)
def test_wrong_use_is_refused(words, message, capsys, monkeypatch):
    if "no-such-command-1" not in words:
        monkeypatch.setattr(os, "execvpe", lambda *args: pytest.fail("the command has begun"))
    assert main(["run", *words]) == 2
    assert capsys.readouterr().err.startswith(f"spinal run: {message}")
