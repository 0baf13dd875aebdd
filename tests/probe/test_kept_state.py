"""What a forward pass or the reading of a row changes beside weights is as before: one kind of state after another.

Each test has its negative: without being kept, the same state does move.
"""

import contextlib
import queue
import threading

import numpy as np
import pytest
import restless
import tiny
import torch
import twins
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spinal_callback.probe import kept_state
from spinal_callback.probe.kept_state import reachable, state_kept
from spinal_callback.probe.prompts import collect
from spinal_callback.probe.sources import check_restart
from spinal_callback.probe.undisturbed import undisturbed


@pytest.mark.parametrize("kind", restless.Restless.KINDS)
@pytest.mark.parametrize("keep", [True, False])
def test_a_module_whose_state_moves(kind, keep):
    module, again = restless.Restless(kind, 8), restless.Restless(kind, 8)
    h, longer = torch.ones(2, 5, 8), torch.ones(2, 9, 8)
    with undisturbed(module) if keep else contextlib.nullcontext():
        for _ in range(3):
            module(longer)
    assert torch.equal(module(h), again(h)) is keep


def rope(kind, positions=16):
    """A policy whose rotary embedding changes with the longest text it has seen."""
    parameters = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}
    if kind == "longrope":
        parameters |= {"short_factor": [1.0] * 3, "long_factor": [2.0] * 3, "original_max_position_embeddings": 14}
    model = twins.policy(rope_parameters=parameters)
    embedding = model.model.rotary_emb
    if kind == "dynamic":
        embedding.max_seq_len_cached = embedding.original_max_seq_len = positions
    return model


@pytest.mark.skipif(tiny.OLD_TRANSFORMERS, reason="before 5.0 a configuration spells the settings of `rope` otherwise")
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize(("trained", "probed"), [(12, 40), (20, 12), (20, 40), (40, 20)])
@pytest.mark.parametrize("keep", [True, False])
def test_rotary_embeddings_that_remember_the_longest_length(kind, trained, probed, keep):
    """Training's rows and the probe's prompts within the model's first length or beyond it, in every order."""
    model, again = rope(kind), rope(kind)
    rows = torch.full((1, trained), 11)
    for policy in (model, again):
        policy(rows, use_cache=False)
    with undisturbed(model) if keep else contextlib.nullcontext():
        model(torch.full((1, probed), 11), use_cache=False)
    state = [
        (m.model.rotary_emb.inv_freq.tolist(), float(m.model.rotary_emb.max_seq_len_cached)) for m in (model, again)
    ]
    if kind == "dynamic":
        moves = probed > max(trained, 16) or probed < 16 <= trained
    else:
        moves = (probed > 14) != (trained > 14)
    assert (state[0] == state[1]) is (keep or not moves)


def test_a_tensor_too_large_to_be_copied_is_named_if_it_moves(monkeypatch):
    monkeypatch.setattr(kept_state, "COPIED_BYTES", 100)

    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.zeros(50))
            self.register_buffer("small", torch.zeros(5))

    model = Large()
    with undisturbed(model):
        model.small += 1
    assert model.small.sum() == 0
    words = r"a forward pass changes Large._buffers.table, .* too large to be copied"
    with pytest.raises(ValueError, match=words), undisturbed(model):
        model.table += 1


def test_all_else_is_put_back_also_if_the_body_raises():
    module = restless.Restless("list", 8)
    with pytest.raises(KeyError, match="inside"), undisturbed(module):
        module(torch.ones(1, 2, 8))
        raise KeyError("inside")
    assert module.steps == []


def test_weights_structure_and_hooks_are_not_touched():
    """They are training's: what a body does to them on purpose stays."""
    module = nn.Linear(2, 2)
    with undisturbed(module):
        module.weight.fill_(3)
        module.register_forward_hook(lambda *a: None)
        module.extra = nn.Linear(1, 1)
    assert module.weight.unique().tolist() == [3]
    assert len(module._forward_hooks) == 1 and isinstance(module.extra, nn.Linear)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


class Holder:
    pass


def changed(value):
    """Changes a value in place wherever that is possible; what takes its place."""
    if isinstance(value, list):
        value[:] = [*(changed(v) for v in value[::-1]), "more"]
        return value
    if isinstance(value, dict):
        for key in list(value):
            value[key] = changed(value[key])
        value["more"] = 1
        return value
    return "other"


@settings(max_examples=200, deadline=None)
@given(before=st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4), new=VALUES)
def test_attributes_of_any_plain_shape(before, new):
    """200 objects with nested attributes, each changed in every place, replaced, removed or added to."""
    holder, copy = Holder(), repr(before)
    vars(holder).update(before)
    with state_kept([holder]):
        for name in list(vars(holder)):
            setattr(holder, name, changed(getattr(holder, name)))
        holder.e = new
        vars(holder).pop("a", None)
    assert repr({name: vars(holder)[name] for name in before}) == copy and "e" not in vars(holder)


# --- data sets


@pytest.mark.parametrize("kind", restless.Rows.KINDS)
@pytest.mark.parametrize("keep", [True, False])
def test_rows_drawn_from_a_data_set_with_state_of_its_own(kind, keep):
    restless.GLOBAL.seed(3)
    rows = restless.Rows(kind)
    if keep:
        collect(rows, None, count=8, longest=99, with_answers=False, seed=0)
    else:
        rows[0]
    after = [rows[i]["input_ids"] for i in range(4)]
    restless.GLOBAL.seed(3)
    again = restless.Rows(kind)
    assert (after == [again[i]["input_ids"] for i in range(4)]) is keep


@pytest.mark.parametrize("kind", restless.Stream.RESTARTS)
def test_a_stream_gets_back_what_was_taken(kind):
    made = restless.Sized if kind == "length" else restless.Stream
    stream, again = made(kind), made(kind)
    check_restart(stream, None)
    collect(stream, None, count=8, longest=99, with_answers=False, seed=0)
    torch.manual_seed(1)
    first = [row["input_ids"] for row, _ in zip(stream, range(30), strict=False)]
    torch.manual_seed(1)
    assert first == [row["input_ids"] for row, _ in zip(again, range(30), strict=False)]


@pytest.mark.parametrize("kind", restless.Stream.KEEPS_ITS_PLACE)
def test_a_stream_that_keeps_its_place_is_refused(kind):
    with pytest.raises(ValueError, match=r"prompts is None, but .* take rows away .* this Stream .* give prompts="):
        check_restart(restless.Stream(kind), None)


def test_a_generator_in_place_of_a_data_set_is_refused():
    with pytest.raises(ValueError, match=r"iter\(\) of this generator does not begin"):
        check_restart(({"input_ids": ids} for ids in tiny.prompts(5)), None)


def test_what_cannot_be_looked_into_is_left_alone():
    """Locks, queues, arrays that are read-only, empty closures, objects that hold themselves."""
    holder = Holder()
    holder.me, holder.lock, holder.queue = holder, threading.Lock(), queue.Queue()
    holder.fixed = np.zeros(3)
    holder.fixed.flags.writeable = False
    holder.view = torch.zeros(1).expand(5)

    def later():
        return unfilled

    holder.call = later
    holder.many = list(range(10_000))
    with state_kept(reachable(holder)):
        holder.queue.put(1)
    assert holder.queue.empty()
    unfilled = 1
    assert later() == 1
