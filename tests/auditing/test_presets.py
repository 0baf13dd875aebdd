"""The paper's protocol by name, against a naive float64 loop."""

import inspect

import numpy as np
import pytest
import reference
import saved
import tiny

from spinal_callback import SpinalConfig, audit, compare
from spinal_callback.auditing.settings import PRESETS, settings

GROUP, PROMPTS = 20, 80


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    saved.policy(folder / "base", tiny.llama().double())
    saved.policy(folder / "new", saved.aligned().double())
    saved.prompts_file(folder / "prompts.jsonl", PROMPTS)
    return folder


@pytest.fixture(scope="module")
def pair(place):
    return saved.read(place, "new", "base", preset="paper", num_prompts=PROMPTS, group=GROUP)


def naive(model, ids):
    """Exponents of the fits `[L, K]` and transport of each prompt `[L - 1, N]`."""
    h, moves = [], []
    for states, z in reference.reference_positions(model, ids, *saved.PARTS):
        h.append(states[:, -1])
        moves.append(
            [np.mean([reference.fisher_rao(a, b) for a, b in zip(z[j], z[j + 1], strict=True)]) for j in range(8)]
        )
    fits = reference.fit_groups(PROMPTS, GROUP)
    h = np.array(h).swapaxes(0, 1)
    return np.array([[reference.tail_exponent(x[rows])[0] for rows in fits] for x in h]), np.array(moves).T


def test_a_pair_by_the_papers_protocol_is_the_naive_loops(place, pair):
    ids = saved.token_ids(place / "prompts.jsonl", PROMPTS)
    (alpha0, moves0), (alpha, moves) = (naive(m.double(), ids) for m in (tiny.llama(), saved.aligned()))
    reading = pair.readings[1]
    assert reading.alpha == pytest.approx(alpha.mean(1), rel=1e-6)
    assert reading.alpha_se == pytest.approx([reference.paired_se(x) for x in alpha], rel=1e-5)
    assert reading.transport == pytest.approx(moves.mean(1), abs=1e-6)
    assert reading.delta["alpha"] == pytest.approx((alpha - alpha0)[6:].mean(), abs=1e-6)
    assert reading.delta["alpha_se"] == pytest.approx(reference.paired_se((alpha - alpha0)[6:].mean(0)), rel=1e-5)
    late = (moves - moves0)[5:].mean(0)
    assert reading.delta["transport"] == pytest.approx(late.mean(), abs=1e-6)
    assert reading.delta["transport_se"] == pytest.approx(reference.paired_se(late), rel=1e-4)
    contraction, transport, _ = pair.effects[0].each
    assert contraction.se == pytest.approx(reading.delta["alpha_se"])
    assert transport.se == pytest.approx(reading.delta["transport_se"])


def test_the_trace_says_by_which_protocol_it_was_read(pair):
    header = pair.trace.header
    assert header.config["position"] == "prompt" and header.config["window"] == "paper" and header.window == (7, 9)
    assert (header.prompts, header.config["group"]) == (PROMPTS, GROUP)


def test_the_values_of_the_preset():
    config = settings(None, {}, (), "paper")
    assert (config.num_prompts, config.group, config.position, config.window) == (512, 64, "prompt", "paper")
    assert settings(None, {"window": 0.5}, (), "paper").window == 0.5
    assert settings(None, {}, ()) == SpinalConfig(group=64, layer_entropy=True, answers=0)
    source = inspect.getsource(inspect.getmodule(settings))
    assert source.count("reading") >= 5 and set(PRESETS) == {"paper"}


@pytest.mark.parametrize("function", [audit, compare])
def test_fewer_prompts_than_the_protocol_has(place, function):
    words = (
        r"preset='paper' reads 512 different prompts, but there are 80: give more with --prompts \(the paper's are"
        r" Anthropic/hh-rlhf\), or ask for fewer with --num-prompts 80"
    )
    with pytest.raises(ValueError, match=words):
        function(place / "new", place / "base", place / "prompts.jsonl", preset="paper")


def test_a_preset_that_is_none_or_stands_beside_a_config(place):
    with pytest.raises(ValueError, match="preset must be one of 'paper' or None, got 'spinal'"):
        audit(place / "base", preset="spinal")
    with pytest.raises(ValueError, match="give config or preset, not both: config and preset='paper'"):
        compare(place / "base", place / "new", config=SpinalConfig(), preset="paper")
