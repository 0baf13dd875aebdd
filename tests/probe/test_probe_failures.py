"""What goes wrong during a probe, and what is refused before it: null measures, halved batches, words."""

import gc
import json
import math
import weakref

import pytest
import tiny
import torch
from architectures import DEPTH, deep
from peft import get_peft_model

from spinal_callback.config import SpinalConfig
from spinal_callback.probe import Probe, sampler
from spinal_callback.probe.prompts import PromptSet
from spinal_callback.records import dump_record

COUNT = 24
PROMPTS = tiny.prompts(COUNT)


def probe_of(model, prompts=PROMPTS, **fields):
    return Probe(
        model, PromptSet(prompts, [0] * len(prompts)), SpinalConfig(num_prompts=max(len(prompts), 10), **fields)
    )


def assert_same(a, b):
    assert a.alpha == pytest.approx(b.alpha, rel=1e-9)
    assert a.transport == pytest.approx(b.transport, rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_weights_give_null_from_there_on(value):
    model = deep(dtype=torch.float32)
    probe = probe_of(model)
    clean = probe.read(0)
    with torch.no_grad():
        model.model.layers[4].mlp.down_proj.weight[0, 0] = value
    broken = probe.read(1)
    assert broken.alpha[:4] == clean.alpha[:4] and broken.effective_rank[:4] == clean.effective_rank[:4]
    assert broken.transport[:3] == clean.transport[:3]
    written = json.loads(dump_record(broken))
    assert written["alpha"][4:] == [None] * 5 and written["transport"][3:] == [None] * 5
    for name in ("displacement", "entropy", "delta_align", "localization", "coherence"):
        assert written[name] is None
    assert clean.nonfinite == 0
    assert broken.nonfinite == COUNT + 4 * COUNT * 32 + COUNT * 100  # one entry of layer 5, then all, then the logits


def test_out_of_memory_halves_the_batch_and_reads_the_same():
    model = deep()
    calm = probe_of(model).read(0)
    probe, sizes = probe_of(model), []
    forward = model.model.forward

    def one_at_a_time(input_ids, **fields):
        sizes.append(len(input_ids))
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **fields)

    model.model.forward = one_at_a_time
    assert_same(probe.read(0), calm)
    assert max(sizes) > 1 and sizes[-COUNT:] == [1] * COUNT
    failed = len(sizes)
    probe.read(1)
    assert sizes[failed:] == [1] * COUNT, "the smaller batch is kept"


@pytest.mark.parametrize("adapted", [False, True])
def test_out_of_memory_in_the_lens_halves_its_pieces_and_reads_the_same(monkeypatch, adapted):
    """A plain head is called piece by piece of the vocabulary, an adapted one row by row. The refusal is a real one."""
    model = deep(dtype=torch.float32)
    if adapted:
        model = get_peft_model(model, tiny.lora(target_modules=["lm_head"])).eval()
    calm = probe_of(model).read(0)
    probe, sizes, chunks = probe_of(model), [], sampler.lens_chunks
    room = 4 * 100 * DEPTH  # logits: those of four rows

    def tight(found, states, block):
        for cols, z in chunks(found, states, block):
            sizes.append(z.numel())
            if z.numel() > room:
                torch.empty(1 << 62, dtype=torch.uint8)  # as much as no machine has
            yield cols, z

    monkeypatch.setattr(sampler, "lens_chunks", tight)
    assert_same(probe.read(0), calm)
    assert sizes[0] > room and max(sizes[-3:]) <= room
    failed = len(sizes)
    probe.read(1)
    assert max(sizes[failed:]) <= room, "the smaller pieces are kept"


def test_a_failed_batch_is_freed_before_the_next_try():
    model, held = deep(), []
    probe, forward = probe_of(model), model.model.forward

    def hungry(input_ids, **fields):
        assert not any(activations() is not None for activations in held), "still there at the next try"
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        if len(held) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **fields)

    model.model.forward = hungry
    gc.disable()  # memory that waits for the collector is not there for the next try
    try:
        probe.read(0)
    finally:
        gc.enable()
    assert len(held) > 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyError])
def test_what_cannot_be_helped_is_raised_and_leaves_no_hooks(error):
    model = deep().train()
    probe, tries = probe_of(model), []

    def broken(input_ids, **fields):
        tries.append(len(input_ids))
        raise error("the reason")

    model.model.forward = broken
    with pytest.raises(error, match="the reason"):
        probe.read(0)
    assert len(tries) == (1 if error is KeyError else 13) and (tries[-1] > 1) == (error is KeyError)
    assert model.training and not any(m._forward_hooks for m in model.modules())
    assert probe.reference is None


def test_too_few_prompts():
    few = r"tail=\(0.1, 0.9\) leaves 7 of the 8 ranks that num_prompts=9 gives.*at least 8: use num_prompts >= 10"
    with pytest.raises(ValueError, match=few):
        probe_of(deep(), PROMPTS[:9])
    assert probe_of(deep(), PROMPTS[:10]).read(0).prompts == 10


def test_window_outside_the_depth():
    with pytest.raises(ValueError, match=r"window must lie in layers 1..9 of this model, got \(7, 10\)"):
        probe_of(deep(), window=(7, 10))
    assert probe_of(deep(), window=(6, 8)).window == (6, 8)


@pytest.mark.parametrize(
    ("window", "layers"), [((8, 9), "layers 8 to 9"), ((9, 9), "layer 9 alone"), ((1, 3), "layers 1 to 3")]
)
def test_a_window_too_short_for_a_curvature_is_noted(window, layers):
    probe = probe_of(deep(dtype=torch.float32), window=window)
    (note,) = probe.notes
    assert note.startswith(
        f"the late window is {layers}, too few for a curvature: coherence and score are not computed"
    )
    assert math.isnan(probe.read(0).coherence)


def test_a_window_with_a_curvature_needs_no_note():
    probe = probe_of(deep(dtype=torch.float32), window=(7, 9))
    assert probe.notes == [] and 0 < probe.read(0).coherence < 1


def test_states_too_large_to_keep_name_the_number_that_fits(monkeypatch):
    model = deep(dtype=torch.float32)
    monkeypatch.setattr(sampler, "STATES_LIMIT", 12 * 32 * DEPTH * 4)
    with pytest.raises(ValueError, match=r"position='last' with num_prompts=24 .* num_prompts=12 would fit"):
        probe_of(model)
    assert probe_of(model, PROMPTS[:12]).read(0).prompts == 12
