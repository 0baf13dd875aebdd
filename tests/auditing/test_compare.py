"""Two checkpoints, two traces: which layers differ."""

import math

import pytest
import saved
from builders import header, reading, write

from spinal_callback import compare, load_trace

NAN = math.nan
MOVED = {"alpha": [NAN, 0.7, 0.8, 2.9], "late": {"alpha": 1.85, "transport": 1.35}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved.models(tmp_path_factory.mktemp("models"))


def test_two_checkpoints(place):
    found = compare(place / "base", place / "new", place / "prompts.jsonl")
    assert (found.a, found.b, found.different, found.verdict) == ("base", "new", True, "changed")
    assert found.changes.paired and set(found.changes.layers) <= {7, 8, 9} and found.displacement > 0
    assert len(found.to_pandas()) == 9 and str(found).startswith("before: base\nafter:  new\n")
    back = compare(place / "new", place / "base", place / "prompts.jsonl")
    assert [c.change for c in back.changes.alpha] == [-c.change for c in found.changes.alpha]


# --- traces


def trace(folder, name, *records, **fields):
    return str(write(folder, header(**fields), reading(0), *records, name=name))


def test_two_traces(tmp_path):
    a, b = trace(tmp_path, "a.jsonl", reading(10)), trace(tmp_path, "b.jsonl", reading(10, **MOVED))
    found = compare(load_trace(a), load_trace(b))
    assert found.changes.layers == [4] and (found.a, found.b) == ("made-up", "made-up")
    assert found.different and not found.changes.paired and math.isnan(found.displacement)
    assert (compare(a, b).a, compare(a, b).b) == (a, b) and compare(a, b).changes.layers == [4]
    assert not compare(a, a).different


def test_a_runs_folder_without_a_model_is_its_trace(tmp_path):
    write(tmp_path, header(), reading(0), reading(10), name="run/_spinal/trace.jsonl")
    b = trace(tmp_path, "b.jsonl", reading(10, **MOVED))
    assert compare(tmp_path / "run", b).different


def test_a_trace_object_against_a_checkpoint_is_named_by_its_model(tmp_path):
    words = "^made-up is a saved trace, the other is not: give two checkpoints or two traces$"
    with pytest.raises(ValueError, match=words):
        compare(load_trace(trace(tmp_path, "a.jsonl", reading(10))), "somewhere")
