"""`spinal card`: what it prints, and the section in a file that others write too."""

import os
import stat

import pytest
import training
from builders import alert, header, reading, write

from spinal_callback import SpinalCallback, load_trace
from spinal_callback.cli.main import main
from spinal_callback.report.card import BEGIN, END, card


def run_card(capsys, *arguments):
    code = main(["card", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.fixture
def trace(tmp_path):
    return write(tmp_path, header(), reading(0), reading(10), alert(10))


def test_it_prints_the_section_with_or_without_alerts(trace, capsys):
    assert run_card(capsys, trace) == (0, card(load_trace(trace).to_json()), "")


def test_in_the_card_that_trl_writes(tmp_path, capsys):
    """TRL writes README.md of a run at each save: the section is put in again, and the rest is TRL's."""
    trainer = training.trainer(tmp_path, SpinalCallback(every=2, num_prompts=24), save_strategy="steps", save_steps=4)
    trainer.train()
    capsys.readouterr()
    readme = tmp_path / "README.md"
    theirs = readme.read_text()
    assert "TRL" in theirs and BEGIN not in theirs
    assert run_card(capsys, tmp_path, "--into", readme) == (0, f"{readme}: the section was put in\n", "")
    section = card(load_trace(tmp_path).to_json())
    gap = "\n" if theirs.endswith("\n") else "\n\n"
    assert readme.read_text() == f"{theirs}{gap}{BEGIN}\n{section}{END}\n"
    assert "| step 0 | step 4 |" in section and "changed most at layer" in section and "± -" not in section
    written = readme.stat().st_mtime_ns
    assert run_card(capsys, tmp_path, "--into", readme)[1] == f"{readme}: the section is there already\n"
    assert readme.stat().st_mtime_ns == written
    trainer.create_model_card()
    assert BEGIN not in readme.read_text()


def test_the_file_keeps_its_rights_and_its_link(trace, tmp_path, capsys):
    readme, link = tmp_path / "README.md", tmp_path / "link.md"
    readme.write_text("# Model\n")
    readme.chmod(0o640)
    link.symlink_to(readme)
    assert run_card(capsys, trace, "--into", link)[0] == 0
    assert link.is_symlink() and readme.read_text().startswith(f"# Model\n\n{BEGIN}\n")
    assert stat.S_IMODE(readme.stat().st_mode) == 0o640


def test_what_cannot_take_the_section_is_left_alone(trace, tmp_path, capsys):
    def refused(path):
        code, out, err = run_card(capsys, trace, "--into", path)
        assert (code, out) == (2, "")
        return err.removeprefix(f"spinal card: {path}").strip()

    hint = "give an existing Markdown file to --into, or redirect what spinal card prints"
    assert refused(tmp_path / "no" / "README.md") == f"does not exist: {hint}"
    assert refused(tmp_path) == f"is not a file: {hint}"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == f"is not a file: {hint}"
    before = trace.read_bytes()
    (tmp_path / "link.md").symlink_to(trace)
    for path in (trace, tmp_path / "link.md"):
        assert refused(path) == "is the trace: give a Markdown file to --into"
    assert trace.read_bytes() == before
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    assert refused(tmp_path / "picture.png") == "is not text in UTF-8: give a Markdown file to --into"
    (tmp_path / "half.md").write_text(f"{BEGIN}\n")
    assert refused(tmp_path / "half.md").startswith(": the section's place is not clear: ")
    assert (tmp_path / "half.md").read_text() == f"{BEGIN}\n"


def test_a_trace_without_readings_is_refused(tmp_path, capsys):
    path = write(tmp_path, header())
    code, out, err = run_card(capsys, path)
    assert (code, out) == (2, "") and "has no readings yet: wait for the run's first probe" in err
    code, _, err = run_card(capsys, tmp_path / "nowhere")
    assert code == 2 and "no trace at" in err


def test_a_failed_write_leaves_the_old_file(trace, tmp_path, capsys, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text("# Model\n")
    names = set(os.listdir(tmp_path))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run_card(capsys, trace, "--into", readme)[0] == 2
    assert readme.read_text() == "# Model\n" and set(os.listdir(tmp_path)) == names
