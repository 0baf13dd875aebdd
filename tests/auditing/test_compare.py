"""Two checkpoints, two traces: which layers differ."""

import math

import pytest
import reference
import saved
import tiny
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
    ids = saved.token_ids(place / "prompts.jsonl")
    for told, model in zip(found.entropies, (tiny.llama(), saved.aligned()), strict=True):
        z = reference.reference_trace(model, ids, *saved.PARTS)["z"]
        assert told == pytest.approx([reference.entropy(x).mean() for x in z], rel=1e-4)
    assert "entropy (nats)" in str(found) and found.to_json()["layer_entropy"]["b"] == found.entropies[1]
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


def test_two_traces_have_the_entropies_that_both_hold(tmp_path):
    there = [trace(tmp_path, f"{n}.jsonl", reading(10, layer_entropy=[3.0, 2.0, 1.0, n])) for n in (0.25, 0.5)]
    found = compare(*there)
    assert found.entropies == ([3.0, 2.0, 1.0, 0.25], [3.0, 2.0, 1.0, 0.5]) and "0.250    0.500" in str(found)
    without = compare(there[0], trace(tmp_path, "none.jsonl", reading(10)))
    assert without.entropies == ([], []) and "entropy" not in str(without)


def test_a_runs_folder_without_a_model_is_its_trace(tmp_path):
    write(tmp_path, header(), reading(0), reading(10), name="run/_spinal/trace.jsonl")
    b = trace(tmp_path, "b.jsonl", reading(10, **MOVED))
    assert compare(tmp_path / "run", b).different


def test_a_trace_object_against_a_checkpoint_is_named_by_its_model(tmp_path):
    words = "^made-up is a saved trace, the other is not: give two checkpoints or two traces$"
    with pytest.raises(ValueError, match=words):
        compare(load_trace(trace(tmp_path, "a.jsonl", reading(10))), "somewhere")
