"""The command as a whole: its parser, exit codes, and what surrounds it (pipes, encodings, signals, launchers)."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import alert, header, reading, write

from spinal_callback import __version__
from spinal_callback.cli.main import EXIT_CODES, main

SPINAL = str(Path(sys.executable).parent / "spinal")
COMMANDS = ("audit", "compare", "card", "run", "show", "replay", "calibrate", "report", "workspace")


@pytest.fixture
def trace(tmp_path):
    return str(write(tmp_path, header(), reading(0), reading(10)))


def spinal(*arguments, **environment):
    """The installed command in a process of its own."""
    environment = {**os.environ, **environment}
    return subprocess.run([SPINAL, *arguments], capture_output=True, timeout=120, env=environment)


# --- the parser


@pytest.mark.parametrize("arguments", [[], ["show"], ["dance"], ["show", "a", "b"], ["show", "a", "--yaml"]])
def test_wrong_use_makes_the_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: spinal" in capsys.readouterr().err


def asked(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_the_version(capsys):
    assert asked(capsys, "--version") == f"{__version__}\n"


def test_help_lists_the_commands_and_the_exit_codes(capsys):
    out = asked(capsys, "--help")
    assert re.findall(r"^    (\w+)", out, re.MULTILINE) == list(COMMANDS)
    assert EXIT_CODES in out and "1    show, replay, audit of a run: there are alerts; compare, audit --base: " in out


@pytest.mark.parametrize("command", ["show", "replay", "audit", "compare"])
def test_help_says_when_the_exit_code_is_1(command, capsys):
    assert "Exit code 1 if" in " ".join(asked(capsys, command, "--help").split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_argument_in_ascii(command, capsys):
    out = asked(capsys, command, "--help")
    assert out.isascii()
    rows = out.split("\n\n", 2)[2].splitlines()
    rows = [row for row in rows if row.startswith("  ")]
    starts = [i for i, row in enumerate(rows) if not row.startswith("   ")]
    unexplained = [rows[i] for i in starts if len(rows[i].split("  ")) < 3 and not rows[i + 1 : i + 2]]
    assert starts and not unexplained


# --- exit codes


def test_the_installed_command_gives_the_exit_code(tmp_path):
    done = spinal("show", str(write(tmp_path, header(), reading(0), alert(10))), "--json")
    assert done.returncode == 1, done.stderr
    assert len(json.loads(done.stdout)["alerts"]) == 1


# --- pipes and encodings


def test_a_reader_that_goes_is_no_error(tmp_path):
    """Enough readings that the pipe is full long before all are printed."""
    path = write(tmp_path, header(), *(reading(step) for step in range(2000)))
    process = subprocess.Popen([SPINAL, "show", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"spinal  late means")
    process.stdout.close()
    assert (process.stderr.read(), process.wait(120)) == (b"", 141)


def test_where_output_cannot_be_utf_8_it_is_ascii(trace):
    """The plot's frame and curves too, each character by one, so that columns stay where they are."""
    whole = spinal("show", trace, PYTHONIOENCODING="utf-8").stdout.decode("utf-8")
    done = spinal("show", trace, PYTHONIOENCODING="ascii")
    out = done.stdout.decode("ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "±" in whole and "┌" in whole and "\\" not in out
    assert [len(row) for row in out.splitlines()] == [len(row.replace("±", "+/-")) for row in whole.splitlines()]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_what_an_encoding_has_is_printed_as_it_is(trace, encoding):
    done = spinal("show", trace, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "±" in done.stdout.decode(encoding)


def test_a_name_that_the_encoding_lacks_is_escaped(tmp_path):
    path = tmp_path / "\u6a21\u578b.jsonl"
    done = spinal("show", str(path), PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and rb"\u6a21\u578b.jsonl: give a trace.jsonl" in done.stderr


# --- signals


def test_ctrl_c_is_one_line(tmp_path):
    """The trace is a pipe that nobody writes into: the command waits there."""
    pipe = tmp_path / "trace.jsonl"
    os.mkfifo(pipe)

    def heeded():  # a test run in the background of a shell inherits that Ctrl-C is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)

    command = [SPINAL, "show", str(pipe)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heeded)
    writer = os.open(pipe, os.O_WRONLY)  # returns once the command has opened the other end
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    os.close(writer)
    assert (process.returncode, out, err) == (130, b"", b"spinal show: interrupted\n")


# --- launchers

LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize("command", [["show", "nowhere"], ["audit", "/nowhere"], ["compare", "/nowhere", "/nowhere"]])
def test_a_rank_left_in_the_environment_silences_nothing(monkeypatch, capsys, command):
    monkeypatch.setenv("RANK", "1")
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"spinal {command[0]}: ")


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_of_launched_ranks_the_first_speaks(monkeypatch, capsys, rank, lines):
    for name, value in (LAUNCHED | {"RANK": rank}).items():
        monkeypatch.setenv(name, value)
    assert main(["audit", "/nowhere"]) == 2
    assert capsys.readouterr().err.count("spinal audit: there is no /nowhere") == lines


def test_commands_that_are_never_launched_speak_in_any_environment(monkeypatch, capsys):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert main(["show", "nowhere"]) == 2
    assert "no trace at nowhere" in capsys.readouterr().err
