"""Readings of tiny models against the float64 reference, and what must not change them."""

import copy
import math

import numpy as np
import peft
import pytest
import reference as ref
import tiny
import torch
from architectures import ARCHITECTURES, DEEP, DEPTH, deep, perturbed

from spinal_callback.config import SpinalConfig
from spinal_callback.probe import Probe, sampler
from spinal_callback.probe.prompts import PromptSet

COUNT, WINDOW = 24, (7, 9)
PROMPTS = tiny.prompts(COUNT)
CONFIG = SpinalConfig(num_prompts=COUNT, layer_entropy=True)


def probe_of(model, prompts=PROMPTS, config=CONFIG, answers=None):
    return Probe(model, PromptSet(prompts, answers or [0] * len(prompts)), config)


def trace(model, name="llama", prompts=PROMPTS):
    arch = ARCHITECTURES[name]
    return ref.reference_trace(model, prompts, arch.layers_of, arch.norm_of, arch.head_of, arch.finish)


def expected(t, eps, start=None):
    """What a reading should say, by the reference: every field that needs no gradients."""
    alpha, se, r2 = (np.array(x) for x in zip(*(ref.tail_exponent(h, eps=eps) for h in t["h"]), strict=True))
    step = ref.transport(t["z"])
    late = ref.late_means(alpha, step.mean(1), *WINDOW)
    want = {
        "alpha": alpha,
        "alpha_se": se,
        "alpha_r2": r2,
        "effective_rank": [ref.effective_rank(h, eps) for h in t["h"]],
        "transport": step.mean(1),
        "transport_se": [ref.paired_se(d) for d in step],
        "late": late,
        "entropy": ref.entropy(t["z"][-1]).mean(),
        "layer_entropy": [ref.entropy(z).mean() for z in t["z"]],
        "length": ref.path_length(step.mean(1), *WINDOW),
        "coherence": ref.coherence(alpha, step.mean(1), *WINDOW),
    }
    if start is not None:
        alpha0, step0 = np.array([ref.tail_exponent(h, eps=eps)[0] for h in start["h"]]), ref.transport(start["z"])
        late0 = ref.late_means(alpha0, step0.mean(1), *WINDOW)
        paired = np.mean(ref.steps_in(step - step0, *WINDOW), axis=0)
        jackknife = ref.jackknife_late_alpha_change(t["h"], start["h"], *WINDOW, eps=eps)
        want["delta"] = late[0] - late0[0], jackknife, late[1] - late0[1], ref.paired_se(paired)
        layers = range(1, len(alpha) + 1)
        want["alpha_change_se"] = [ref.jackknife_late_alpha_change(t["h"], start["h"], i, i, eps=eps) for i in layers]
        want["transport_change_se"] = [ref.paired_se(d) for d in step - step0]
        want["displacement"] = ref.displacement(t["z"][-1], start["z"][-1]).mean()
        want["localization"] = ref.localization(alpha - alpha0, (step - step0).mean(1), *WINDOW)
        want["greatest"] = ref.greatest_change(alpha - alpha0, 1), ref.greatest_change((step - step0).mean(1), 2)
        want["delta_align"] = ref.delta_align(late[0], late0[0], late[1], late0[1])
    return want


def values(reading, name):
    got = getattr(reading, name)
    return np.array(list(got.values()) if isinstance(got, dict) else got)


def assert_reads(reading, want, rel=1e-6, radians=1e-4):
    """Exponents to a relative, distances to an absolute error."""
    for name, value in want.items():
        assert np.isfinite(value).all(), name
        loose = radians if name.startswith(("transport", "displacement", "length")) else 1e-9
        np.testing.assert_allclose(values(reading, name), value, rtol=rel, atol=loose, err_msg=name)


def same(a, b, rel=1e-5, names=("alpha", "alpha_se", "transport", "transport_se", "entropy", "effective_rank")):
    for name in names:
        np.testing.assert_allclose(values(a, name), values(b, name), rtol=rel, atol=1e-7, err_msg=name)


# --- against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_reading_equals_the_reference_before_and_after_a_change(name, dtype, rel):
    model, eps = deep(name, dtype), torch.finfo(dtype).eps
    probe = probe_of(model)
    start = trace(model, name)
    first = probe.read(0)
    assert_reads(first, expected(start, eps), rel)
    assert first.nonfinite == 0 and first.prompts == COUNT and probe.window == WINDOW
    assert list(first.delta.values()) == [0, 0, 0, 0] and first.displacement == 0 and first.delta_align == 0
    assert (
        math.isnan(first.greatest["alpha"])
        and math.isnan(first.localization)
        and math.isnan(first.gradient_concentration)
        and math.isnan(first.score)
    )
    now = trace(perturbed(model), name)
    want = expected(now, eps, start)
    assert want["displacement"] > 0.05 and abs(want["delta"][0]) > 1e-3
    norms = torch.arange(1.0, DEPTH + 1, dtype=torch.float64)
    reading = probe.read(1, gradients=norms)
    assert_reads(reading, want, rel * 100)  # differences of near numbers
    concentration = ref.gradient_concentration(norms.tolist(), *WINDOW)
    assert reading.gradient_concentration == pytest.approx(concentration)
    score = ref.score(want["delta_align"], want["coherence"], concentration)
    assert reading.score == pytest.approx(score, rel=rel * 100)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("block", [1 << 21, 2000])
def test_top_k_equals_the_reference(k, block, monkeypatch):
    monkeypatch.setattr(sampler, "LOGITS_BLOCK", block)
    model = deep()
    reading = probe_of(model, config=SpinalConfig(num_prompts=COUNT, top_k=k)).read(0)
    z = trace(model)["z"]
    want = ref.transport_top_k(z, k).mean(1)
    np.testing.assert_allclose(reading.transport, want, atol=1e-4)
    assert np.abs(want - ref.transport(z).mean(1)).max() > 0.01
    assert reading.entropy == pytest.approx(ref.entropy(z[-1]).mean(), rel=1e-6)  # of the whole vocabulary


def test_response_positions_are_those_that_predict_the_answer():
    answers = [1 + i % 3 for i in range(COUNT)]
    answers = [min(a, len(p) - 1) for a, p in zip(answers, PROMPTS, strict=True)]
    config = SpinalConfig(num_prompts=COUNT, position="response")
    model = deep()
    probe = probe_of(model, config=config, answers=answers)
    owner = np.repeat(np.arange(COUNT), answers)
    prefixes = [p[: len(p) - a + j] for p, a in zip(PROMPTS, answers, strict=True) for j in range(a)]
    start, first = trace(model, prompts=prefixes), probe.read(0)
    now, reading = trace(perturbed(model), prompts=prefixes), probe.read(1)

    def of_prompts(rows):
        return np.array([rows[..., owner == i].mean(-1) for i in range(COUNT)]).T

    for t, got in ((start, first), (now, reading)):
        rows = ref.transport(t["z"])
        assert_reads(got, {"alpha": [ref.tail_exponent(h)[0] for h in t["h"]]})
        assert_reads(
            got, {"transport": of_prompts(rows).mean(1), "entropy": of_prompts(ref.entropy(t["z"][-1])).mean()}
        )
        assert_reads(got, {"transport_se": [ref.paired_se(d) for d in of_prompts(rows)]}, 1e-4)
    firsts = [int(np.flatnonzero(owner == i)[0]) for i in range(COUNT)]
    moved = ref.displacement(now["z"][-1][firsts], start["z"][-1][firsts]).mean()
    assert reading.displacement == pytest.approx(moved, abs=1e-4)
    change = of_prompts(ref.transport(now["z"]) - ref.transport(start["z"]))
    paired = ref.paired_se(np.mean(ref.steps_in(change, *WINDOW), axis=0))
    assert reading.delta["transport_se"] == pytest.approx(paired, rel=1e-4)


def test_bfloat16_is_no_worse_than_the_naive_method():
    """The budget: errors against float64 of the same weights, no larger than those of bfloat16 all the way."""
    model = deep(dtype=torch.bfloat16)
    truth = expected(trace(model), torch.finfo(torch.bfloat16).eps)
    hidden = []
    with torch.no_grad():
        for p in PROMPTS:
            out = model(input_ids=torch.tensor([p]), output_hidden_states=True, use_cache=False)
            hidden.append(torch.stack([h[0, -1] for h in out.hidden_states[1:]]))
        h = torch.stack(hidden, dim=1)
        z = model.lm_head(torch.cat([model.model.norm(h[:-1]), h[-1:]]))  # the last is normed already
        log_p = torch.log_softmax(z, -1)
        cosine = ((log_p[1:] + log_p[:-1]) / 2).exp().sum(-1)
    naive = {
        "transport": (2 * cosine.clamp(max=1).arccos()).float().mean(1).numpy(),
        "entropy": -(log_p * log_p.exp()).sum(-1)[-1].float().mean().numpy(),
        "alpha": np.array([ref.tail_exponent(x.double().numpy())[0] for x in h[:-1]]),
    }
    reading = probe_of(model).read(0)
    for name, value in naive.items():
        right = np.atleast_1d(truth[name])[: value.size]
        mine, theirs = (np.abs(x.ravel()[: value.size] - right).mean() for x in (values(reading, name), value))
        assert mine <= 1.05 * theirs + 1e-4, name


# --- what must not matter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 40])
def test_batch_size_does_not_matter(tokens, monkeypatch):
    model = deep()
    whole = probe_of(model).read(0)
    monkeypatch.setattr(sampler, "BATCH_TOKENS", tokens)
    same(probe_of(model).read(0), whole)


def test_prompt_order_does_not_matter():
    model = deep()
    ahead, back = probe_of(model), probe_of(model, prompts=PROMPTS[::-1])
    same(ahead.read(0), back.read(0))
    perturbed(model)
    same(ahead.read(1), back.read(1), names=("alpha", "transport", "displacement", "localization", "delta_align"))
    pairs = zip(ahead.reference.transport.T, back.reference.transport.T.flip(0), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs), "each prompt keeps its own place"


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("block", [1, 5000])
def test_chunk_size_does_not_matter(head, block, monkeypatch):
    model = deep(dtype=torch.float32)
    if head:  # a wrapped head is called whole, on blocks of rows
        config = peft.LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, config).eval()
    twin = copy.deepcopy(model)
    whole = probe_of(model)
    first, second = whole.read(0), perturbed(model) and whole.read(1)
    monkeypatch.setattr(sampler, "LOGITS_BLOCK", block)
    pieces = probe_of(twin)
    same(pieces.read(0), first)
    perturbed(twin)
    same(pieces.read(1), second, names=("transport", "entropy", "displacement", "localization"))
