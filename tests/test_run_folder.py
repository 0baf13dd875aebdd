"""run_folder.py: where a run keeps its files, and that no other file of the package spells their names."""

import ast
from pathlib import Path

import pytest

import spinal_callback
from spinal_callback import run_folder

PACKAGE = Path(spinal_callback.__file__).parent
NAMES = ("_spinal", "trace.jsonl", "report.html", "spinal_start.safetensors")


def test_the_names_of_a_run():
    """These are read by others: renaming one would lose the runs that were saved before."""
    run = Path("runs/mine")
    assert run_folder.trace_path(run) == Path("runs/mine/_spinal/trace.jsonl")
    trace = run_folder.trace_path(run)
    assert run_folder.trace_path(run, 2) == Path("runs/mine/_spinal/trace_2.jsonl")
    assert run_folder.replaced_trace_path(trace, 4) == Path("runs/mine/_spinal/trace_before_4.jsonl")
    assert run_folder.report_path(trace) == Path("runs/mine/_spinal/report.html")
    assert run_folder.report_path(run_folder.trace_path(run, 2)) == Path("runs/mine/_spinal/report_2.html")
    assert run_folder.pushed_reference_path(run) == Path("runs/mine/_spinal/start.safetensors")
    assert run_folder.checkpoint_name(40) == "checkpoint-40"
    assert run_folder.REFERENCE_FILE == "spinal_start.safetensors"


def test_the_run_of_a_path():
    run = Path("runs/mine")
    assert run_folder.run_of(run_folder.trace_path(run)) == run
    assert run_folder.run_of(run_folder.report_path(run_folder.trace_path(run))) == run
    assert run_folder.run_of(Path("traces/mine.jsonl")) == Path("traces/mine.jsonl")


def test_a_trace_that_is_put_aside_replaces_no_other(tmp_path):
    trace = run_folder.trace_path(tmp_path)
    trace.parent.mkdir()
    for name in ("trace_before_4.jsonl", "trace_before_4_2.jsonl", "trace_before_4_3.jsonl"):
        place = run_folder.replaced_trace_path(trace, 4)
        assert place.name == name
        place.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoint-40", 40), ("checkpoint-x", None), ("checkpoint-40-old", None), ("my-checkpoint-40", None)],
)
def test_the_step_of_a_checkpoint_is_in_its_name(name, step):
    assert run_folder.checkpoint_step(Path("run") / name) == step


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for name in ("checkpoint-100", "checkpoint-20", "checkpoint-x", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-5").write_text("a file")
    found = run_folder.checkpoints(tmp_path)
    assert list(found.items()) == [(20, tmp_path / "checkpoint-20"), (100, tmp_path / "checkpoint-100")]
    assert run_folder.checkpoints(tmp_path / "nowhere") == {}


def test_references_are_those_of_the_checkpoints_that_have_one(tmp_path):
    for step in (100, 20, 60):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (100, 20):
        (tmp_path / f"checkpoint-{step}" / "spinal_start.safetensors").write_bytes(b"")
    assert [file.parent.name for file in run_folder.references(tmp_path)] == ["checkpoint-20", "checkpoint-100"]
    (tmp_path / "_spinal").mkdir()
    run_folder.pushed_reference_path(tmp_path).write_bytes(b"")
    assert run_folder.references(tmp_path)[2:] == [run_folder.pushed_reference_path(tmp_path)]


def spelled(source):
    """The names of a run's files that a module spells itself: as a string of its own, or built from one."""
    texts = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return {text for text in texts if text in NAMES or text.startswith("checkpoint-")}


def test_no_other_file_spells_them():
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "run_folder.py"]
    assert {str(path.relative_to(PACKAGE)): found for path in files if (found := spelled(path.read_text()))} == {}
    assert spelled((PACKAGE / "run_folder.py").read_text()) >= {*NAMES, "checkpoint-"}
