"""terminal.py: what is printed as records come, and at the end. The texts themselves: tests/report/test_text.py."""

import os
import subprocess
import sys

import pytest
from builders import alert, header, notice, reading

from spinal_callback.report.text import alert_line, heading, line, notice_line, summary
from spinal_callback.sinks.terminal import TerminalSink
from spinal_callback.traces import Trace


def test_the_sink_prints_as_records_come_and_sums_up_at_the_end(capsys, tmp_path):
    path = tmp_path / "trace.jsonl"
    sink = TerminalSink()
    sink.begin(path, tmp_path / "report.html")
    told = []
    for record in (header(), reading(0), alert(5), notice(5), reading(10)):
        sink.write(record)
        told.append(capsys.readouterr().out)
    assert told[0] == "spinal  made-up: 4 layers, late window 3-4, 24 prompts\n"
    assert told[1] == f"{heading(header())}\n{line(reading(0))}\n"
    assert told[2:] == [f"{text}\n" for text in (alert_line(alert(5)), notice_line(notice(5)), line(reading(10)))]
    sink.close()
    end = capsys.readouterr().out
    assert summary(Trace(header(), [reading(0), reading(10)])) in end
    assert f"spinal show {path}" in end


def test_the_heading_is_printed_again_after_twenty_readings(capsys):
    sink = TerminalSink()
    for record in (header(), *map(reading, range(41))):
        sink.write(record)
    assert capsys.readouterr().out.count(heading(header())) == 3
    sink.write(header())  # the next run
    sink.write(reading(0))
    assert capsys.readouterr().out.count(heading(header())) == 1


def test_a_run_without_readings_has_no_summary(capsys):
    sink = TerminalSink()
    sink.close()
    sink.write(header())
    capsys.readouterr()
    sink.close()
    assert capsys.readouterr().out == ""
    sink.write(reading(0))
    sink.close()
    assert "trace    " not in capsys.readouterr().out  # no path, no pointer to it


PRINTS_ALL = """
from builders import alert, header, notice, reading
from spinal_callback.sinks.terminal import TerminalSink
sink = TerminalSink()
for record in (header(model="modèle"), reading(0), alert(5, message="Größe"), notice(5), reading(10)):
    sink.write(record)
sink.close()
print("printed")
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_cannot_show_everything_is_told_in_what_it_can(encoding):
    places = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": places}
    done = subprocess.run([sys.executable, "-c", PRINTS_ALL], capture_output=True, env=environment)
    out = done.stdout.decode(encoding)
    assert done.returncode == 0 and out.endswith("printed\n"), done.stderr.decode()
    assert ("± 0.004" in out) == (encoding != "ascii") and ("⠒" in out) == (encoding == "utf-8")
    assert ("modèle" in out) == (encoding != "ascii")
