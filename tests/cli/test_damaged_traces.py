"""Traces and rules files that are damaged or foreign: every command ends with 0, 1 or 2, and with 2 in one line.

Damage is generated: every field of every kind of record gets values of every kind, and bytes anywhere are changed.
"""

import contextlib
import gzip
import io
import itertools
import json
import warnings

import made_up
import pytest
from damage import RECORDS, VALUES, all_damage, damaged, paths
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spinal_callback.alerts.calibration import dump_rules, load_rules
from spinal_callback.alerts.rules import RULES
from spinal_callback.cli.main import main
from spinal_callback.traces import load_sound


def run(*arguments):
    """The command in this process: exit code, stdout, stderr. What it raises is raised."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in arguments])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    made_up.healthy_runs(folder)
    return folder


def commands(folder, trace):
    """Every command that reads traces, with this one among those it reads."""
    healthy = [folder / f"run{i}" for i in range(5)]
    return (
        ("show", trace),
        ("show", trace, "--json"),
        ("replay", trace),
        ("compare", trace, healthy[0]),
        ("report", trace, "-o", folder / "r.html", "--force"),
        ("calibrate", *healthy, trace, "-o", folder / "rules.json", "--force"),
    )


def check(command, trace, what):
    """The command ends as it should, whatever the trace holds."""
    code, out, err = run(*command)
    assert code in (0, 1, 2, 3), what
    if code == 2:
        assert (out, err.count("\n")) == ("", 1) and len(err) < 500, what
        assert err.startswith(f"spinal {command[0]}: ") and trace.name in err, what


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 6], ids=["all commands", "in turn"])
def test_every_value_in_every_field(folder, every):
    """Reading refuses what does not fit, by file and line. With the rest every command has to cope."""
    trace, tried, refused = folder / "trace.jsonl", 0, 0
    for what, lines in all_damage():
        tried += 1
        trace.write_text("\n".join(lines) + "\n")
        try:
            load_sound(trace)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{trace}, line ") and "\n" not in str(error), what
        for command in commands(folder, trace)[tried % every :: every]:
            check(command, trace, what)
    assert tried >= 1900 and refused >= 1500


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), packed=st.booleans())
def test_any_change_of_bytes(folder, data, packed):
    """200 files, each with up to three stretches of up to 40 bytes replaced, inserted or cut out."""
    content = bytearray("\n".join(json.dumps(record) for record in RECORDS).encode() + b"\n")
    if packed:
        content = bytearray(gzip.compress(bytes(content), mtime=0))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 40))
        content[start : start + length] = data.draw(st.binary(max_size=40))
    trace = folder / ("trace.jsonl.gz" if packed else "trace.jsonl")
    trace.write_bytes(content)
    command = data.draw(st.sampled_from(commands(folder, trace)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, out, err = run(*command)
    assert code in (0, 1, 2, 3)
    if code == 2:
        assert out == "" and err.splitlines()[-1].startswith(f"spinal {command[0]}: ")


def test_a_folder_in_place_of_the_trace(folder):
    (folder / "run" / "_spinal" / "trace.jsonl").mkdir(parents=True)
    for command in commands(folder, folder / "run"):
        code, out, err = run(*command)
        assert (code, out) == (2, "") and err == f"spinal {command[0]}: {folder / 'run'}: Is a directory\n"


# --- rules files


def all_rules():
    """Rules files: one value at one place of a whole one."""
    limits = {name: rule.limit for name, rule in RULES.items() if not rule.at_once}
    whole = json.loads(dump_rules(limits))
    for path, (name, value) in itertools.product(paths(whole), VALUES.items()):
        yield f"{path} {name}", damaged(whole, path, value)


def test_every_value_in_every_field_of_a_rules_file(folder):
    trace, file, tried, refused = folder / "run0", folder / "my.json", 0, 0
    for what, text in all_rules():
        tried += 1
        file.write_text(text)
        try:
            load_rules(file)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{file}: ") and "\n" not in str(error) and len(str(error)) < 500, what
        else:
            assert run("replay", trace, "--rules", file)[0] in (0, 1), what
    assert tried >= 300 and refused >= 200
