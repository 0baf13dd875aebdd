"""Where the commands write: never over what they read, over a device, or unasked; whole or not at all."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import made_up
import pytest

from spinal_callback.cli.main import main
from spinal_callback.files import free, save

WRITERS = ("calibrate", "report")
SPINAL = str(Path(sys.executable).parent / "spinal")


def is_whole(command, text):
    return "rules" in json.loads(text) if command == "calibrate" else text.endswith("</html>\n")


# --- what is there


@pytest.mark.parametrize("command", WRITERS)
def test_a_file_that_exists_is_kept_unless_forced(tmp_path, capsys, command):
    runs, output = made_up.healthy_runs(tmp_path), tmp_path / "out"
    output.write_text("mine")
    assert main([command, *runs, "-o", str(output)]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"spinal {command}: {output} already exists; choose another -o or use --force\n")
    assert output.read_text() == "mine"
    assert main([command, *runs, "-o", str(output), "--force"]) == 0
    assert is_whole(command, output.read_text())


def another_name(link, trace):
    getattr(os, link)(trace, trace.parent / "other")
    return trace.parent / "other"


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("link", ["itself", "symlink", "link"])
@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_trace_that_is_read_is_never_written(tmp_path, capsys, command, link, given):
    """Also by another name of it: a symbolic or a hard link."""
    runs = made_up.healthy_runs(tmp_path)
    trace = Path(runs[2], "_spinal", "trace.jsonl")
    was = trace.read_bytes()
    output = trace if link == "itself" else another_name(link, trace)
    runs[2] = str(trace) if given == "file" else runs[2]
    assert main([command, *runs, "-o", str(output), "--force"]) == 2
    assert capsys.readouterr().err == f"spinal {command}: {output} is read by this command: choose another -o\n"
    assert trace.read_bytes() == was


def test_prompts_that_an_audit_reads_are_never_written(tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "w1"}\n')
    assert main(["audit", "/nowhere", "--prompts", str(prompts), "-o", str(prompts), "--force"]) == 2
    assert "prompts.jsonl is read by this command: choose another -o" in capsys.readouterr().err


@pytest.mark.parametrize("command", WRITERS)
def test_a_symlink_stays_one_and_its_file_is_replaced(tmp_path, command):
    runs, target, output = made_up.healthy_runs(tmp_path), tmp_path / "target", tmp_path / "out"
    target.write_text("old")
    output.symlink_to(target)
    assert main([command, *runs, "-o", str(output)]) == 2
    assert target.read_text() == "old"
    assert main([command, *runs, "-o", str(output), "--force"]) == 0
    assert output.is_symlink() and is_whole(command, target.read_text())


@pytest.mark.parametrize("command", WRITERS)
def test_a_symlink_to_nowhere_is_not_free(tmp_path, capsys, command):
    runs, target, output = made_up.healthy_runs(tmp_path), tmp_path / "target", tmp_path / "out"
    output.symlink_to(target)
    assert main([command, *runs, "-o", str(output)]) == 2
    assert "already exists; choose another -o or use --force" in capsys.readouterr().err
    assert output.is_symlink() and not target.exists()
    assert main([command, *runs, "-o", str(output), "--force"]) == 0
    assert output.is_symlink() and is_whole(command, target.read_text())


# --- what is not a file


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_device_is_written_into(tmp_path, capsys, command, force):
    assert main([command, *made_up.healthy_runs(tmp_path), "-o", "/dev/null", *force]) == 0
    assert Path("/dev/null").is_char_device()
    assert "written to" not in capsys.readouterr().out


@pytest.mark.parametrize("command", WRITERS)
def test_a_pipe_is_written_into(tmp_path, command):
    runs, pipe, got = made_up.healthy_runs(tmp_path), tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    assert main([command, *runs, "-o", str(pipe), "--force"]) == 0
    reader.join()
    assert pipe.is_fifo() and is_whole(command, got[0])


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(ValueError, match=r"^socket is neither a file nor a pipe: choose another -o$"):
            free("socket", force=True)


@pytest.mark.parametrize("command", WRITERS)
def test_a_dash_is_standard_output(tmp_path, command):
    """All else that the command prints goes to stderr."""
    done = subprocess.run(
        [SPINAL, command, *made_up.healthy_runs(tmp_path), "-o", "-"], capture_output=True, cwd=tmp_path
    )
    assert done.returncode == 0 and is_whole(command, done.stdout.decode("utf-8"))
    assert (b"late_speed" in done.stderr) == (command == "calibrate")
    assert not (tmp_path / "-").exists()


def test_an_audit_prints_one_thing_on_standard_output(capsys):
    assert main(["audit", "/nowhere", "-o", "-", "--json"]) == 2
    assert "--json and -o - both print on standard output: give one of them" in capsys.readouterr().err


# --- what cannot be written


def test_a_folder_and_a_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=f"^{tmp_path} is a folder: choose a file in it with -o$"):
        free(tmp_path, force=True)
    with pytest.raises(ValueError, match=f"^there is no folder {tmp_path}/no: make it or choose another -o$"):
        free(tmp_path / "no" / "out", force=False)
    (tmp_path / "link").symlink_to(tmp_path / "no" / "out")
    with pytest.raises(ValueError, match=f"^there is no folder {tmp_path}/no: make it or choose another -o$"):
        free(tmp_path / "link", force=True)


@pytest.mark.parametrize("command", WRITERS)
def test_the_longest_name_can_be_written_and_a_longer_one_is_one_line(tmp_path, capsys, command):
    runs = made_up.healthy_runs(tmp_path)
    for name in ("x" * 250, "x" * 255):
        assert main([command, *runs, "-o", str(tmp_path / name)]) == 0
        assert is_whole(command, (tmp_path / name).read_text())
    capsys.readouterr()
    assert main([command, *runs, "-o", str(tmp_path / ("x" * 256))]) == 2
    assert capsys.readouterr().err == f"spinal {command}: {tmp_path / ('x' * 256)}: File name too long\n"


@pytest.mark.parametrize("failing", ["chmod", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    output = tmp_path / "out"
    output.write_text("old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        save(output, "new")
    assert output.read_text() == "old" and list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_is_one_line(tmp_path, capsys, command):
    assert main([command, *made_up.healthy_runs(tmp_path), "-o", "/dev/full"]) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err and err.count("\n") == 1
