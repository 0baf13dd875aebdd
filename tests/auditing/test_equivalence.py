"""The verdicts: their p values against the naive reference; their level, and the power at the sample size they name, by
simulations whose truth is known."""

import math

import numpy as np
import pytest
import reference
import torch
from test_significance import drawn

from spinal_callback.auditing.effects import AT_LEAST, CHANGED, INSUFFICIENT, NEGLIGIBLE, bounds
from spinal_callback.auditing.equivalence import Estimate, judged, power
from spinal_callback.auditing.significance import estimates

NAN, GROUP, RUNS = math.nan, 64, 250
MARGIN = 3 * math.sqrt(0.05 * 0.95 / RUNS)  # three standard deviations of a share of 5 %
BOUNDS = {"contraction": 0.01, "transport": 0.02, "displacement": 0.1}
SPREAD = {"contraction": 0.016, "transport": 0.12, "displacement": 0.3}  # of a fit's change, of a prompt's


def judge(prompts=64, group=GROUP, **changes):
    return judged({name: Estimate(*values) for name, values in changes.items()}, BOUNDS, prompts, group)


# --- single pieces


@pytest.mark.parametrize("change", [0.0, 0.004, -0.0099, 0.013, -0.03])
@pytest.mark.parametrize(("se", "freedom"), [(0.002, 7), (0.02, 63)])
def test_the_p_values_are_the_references(change, se, freedom):
    (effect,) = judge(contraction=(change, se, freedom)).each
    assert effect.p_changed == pytest.approx(min(reference.p_changed(change, se, freedom, 0.01), 1), abs=1e-6)
    assert effect.p_negligible == pytest.approx(reference.p_negligible(change, se, freedom, 0.01), abs=1e-6)
    assert (effect.low + effect.high) / 2 == pytest.approx(change, abs=1e-12)
    assert reference.t_tail((effect.high - change) / se, freedom) == pytest.approx(0.05, abs=1e-5)  # 90 % interval


def test_displacement_has_one_side():
    (effect,) = judge(displacement=(0.02, 0.1, 63)).each
    want = reference.p_changed(0.02, 0.1, 63, 0.1, signed=False)
    assert effect.p_changed == pytest.approx(want, abs=1e-6)
    assert want < reference.p_changed(0.02, 0.1, 63, 0.1) - 0.1


def test_changes_are_adjusted_by_holm_and_negligible_ones_are_not():
    found = judge(contraction=(0.0155, 0.0028, 63), transport=(0.0, 0.01, 63), displacement=(0.0, 0.01, 63))
    alone = judge(contraction=(0.0155, 0.0028, 63))
    assert found.each[0].p_changed == pytest.approx(3 * alone.each[0].p_changed)
    assert (alone.verdict, found.verdict) == (CHANGED, INSUFFICIENT)
    assert found.each[1].p_negligible == judge(transport=(0.0, 0.01, 63)).each[0].p_negligible


def test_the_verdict_is_changed_by_one_and_negligible_by_all():
    small = {"contraction": (0.0, 0.001, 7), "transport": (0.001, 0.001, 63), "displacement": (0.01, 0.001, 63)}
    large, unsure = (0.5, 0.01, 63), (0.1, 0.05, 63)
    assert judge(**small).verdict == NEGLIGIBLE
    assert judge(**small | {"displacement": large}).verdict == CHANGED
    assert judge(**small | {"displacement": unsure}).verdict == INSUFFICIENT
    assert judge(contraction=(0.009, 0.01, 7), transport=(0.0, 0.1, 63), displacement=large).verdict == CHANGED


def test_nothing_that_moved_is_negligible_and_nothing_known_is_insufficient():
    same = judge(contraction=(0.0, 0.0, 7), transport=(0.0, 0.0, 63), displacement=(0.0, 0.0, 63))
    assert same.verdict == NEGLIGIBLE and same.prompts_needed is None
    assert judge(contraction=(0.5, 0.0, 7)).verdict == CHANGED
    unknown = judge(contraction=(0.5, NAN, math.inf), transport=(0.0, 0.001, math.inf))
    assert unknown.verdict == INSUFFICIENT and unknown.prompts_needed is None
    assert "no error of the change; compare the checkpoints" in str(unknown)


def test_the_words():
    small = {"contraction": (0.001, 0.001, 7), "displacement": (0.01, 0.001, 63)}
    assert str(judge(**small)).endswith("verdict: negligible: every interval lies within the least change that matters")
    changed = judge(contraction=(-0.05, 0.001, 7), displacement=(0.5, 0.001, 63))
    assert "verdict: changed: late contraction and displacement by more than the least" in str(changed)
    assert "late contraction        -0.0500   -0.0519 to -0.0481     0.01  changed" in str(changed)
    unsure = judge(contraction=(0.001, 0.01, 7))
    assert str(unsure).endswith(f"about {unsure.prompts_needed} prompts would settle it (there were 64)")
    hopeless = judge(contraction=(0.01, 0.01, 7))
    assert hopeless.prompts_needed is None and str(hopeless).endswith("no number of prompts helps")


def test_json_has_all_of_it():
    found = judge(contraction=(0.001, 0.01, 7), transport=(0.0, NAN, 63)).to_json()
    assert (found["verdict"], found["prompts"]) == (INSUFFICIENT, 64)
    assert found["effects"][0]["at_least"] == 0.01 and found["effects"][1]["se"] is None
    assert found["effects"][0]["prompts"] % GROUP == 0 and found["prompts_needed"] is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"entropy": 1.0}, "at_least: there is no 'entropy', the changes are contraction, transport, displacement"),
        *(({"transport": x}, "at_least: transport must be a number > 0, got ") for x in (0, -0.1, NAN, "1", True)),
    ],
)
def test_a_bound_that_is_none(given, words):
    with pytest.raises(ValueError, match=words):
        bounds(given)


def test_bounds_left_out_keep_their_defaults():
    assert bounds(None) == AT_LEAST and bounds({"transport": 0.5}) == AT_LEAST | {"transport": 0.5}


def test_what_is_settled_first_names_the_number():
    """An effect that is larger than its bound can settle the verdict alone; smaller ones only all together."""
    smaller = judge(contraction=(0.001, 0.01, 63), transport=(0.001, 0.02, 63))
    assert smaller.prompts_needed == max(e.prompts for e in smaller.each)
    one_larger = judge(contraction=(0.001, 0.05, 63), transport=(0.06, 0.03, 63))
    first, second = (e.prompts for e in one_larger.each)
    assert one_larger.prompts_needed == second < first


# --- simulations


def measured(truth, prompts, draw):
    """An audit's estimates where the true changes are `truth`: normal noise of every fit and prompt."""
    found = {}
    for name, true in truth.items():
        count = prompts // GROUP if name == "contraction" else prompts
        values = true + SPREAD[name] * draw.standard_normal(count)
        found[name] = Estimate(values.mean(), values.std(ddof=1) / math.sqrt(count), count - 1)
    return found


def verdicts(truth, prompts, runs=RUNS, seed=0):
    draw = np.random.default_rng(seed)
    return [judged(measured(truth, prompts, draw), BOUNDS, prompts, GROUP) for _ in range(runs)]


def share(found, verdict):
    return sum(effects.verdict == verdict for effects in found) / len(found)


@pytest.mark.parametrize("at", [("contraction",), ("transport",), ("displacement",), tuple(BOUNDS)])
def test_a_change_as_large_as_the_bound_is_seldom_called_either(at):
    """The hardest truths. `changed` is false there by a hair; with all three there, any of them would be false."""
    found = verdicts({name: BOUNDS[name] * (name in at) for name in BOUNDS}, 512)
    assert share(found, CHANGED) <= 0.05 + MARGIN
    assert share(found, NEGLIGIBLE) <= 0.05 + MARGIN


def test_the_level_is_used_up():
    """Twin of the above: each test alone errs in about 5 %, so that it is not merely mute."""
    found = verdicts({"transport": BOUNDS["transport"]}, 512)
    assert 0.05 - MARGIN <= share(found, CHANGED) <= 0.05 + MARGIN
    assert 0.05 - MARGIN <= share(found, NEGLIGIBLE) <= 0.05 + MARGIN


@pytest.mark.parametrize(
    ("truth", "verdict"),
    [
        ({"contraction": 0.0, "transport": 0.0, "displacement": 0.02}, NEGLIGIBLE),
        ({"contraction": 0.003, "transport": -0.005, "displacement": 0.04}, NEGLIGIBLE),
        ({"contraction": 0.0, "transport": 0.0, "displacement": 0.16}, CHANGED),
        ({"contraction": -0.022, "transport": 0.0, "displacement": 0.05}, CHANGED),
    ],
    ids=["nothing", "little", "displaced", "contracted"],
)
def test_the_number_of_prompts_that_is_named_settles_it(truth, verdict):
    """Most of the audits that could not say say the right thing when they are repeated with the number they name."""
    draw = np.random.default_rng(1)
    first = [judged(measured(truth, 256, draw), BOUNDS, 256, GROUP) for _ in range(RUNS)]
    unsure = [effects.prompts_needed for effects in first if effects.verdict == INSUFFICIENT]
    named = [n for n in unsure if n is not None]
    assert len(unsure) > RUNS / 10 and len(named) > 0.9 * len(unsure)
    again = [judged(measured(truth, n, draw), BOUNDS, n, GROUP).verdict for n in named]
    assert again.count(verdict) / len(again) >= 0.7
    assert again.count(verdict) / len(again) > share(first, verdict) + 0.1


@pytest.mark.parametrize(("name", "true"), [("transport", 0.0), ("transport", 0.035), ("displacement", 0.05)])
def test_the_power_is_what_the_simulation_finds(name, true):
    spread = SPREAD[name] / math.sqrt(256)
    found = verdicts({name: true}, 512)
    decided = 1 - share(found, INSUFFICIENT)
    said = power(name, Estimate(true, spread, 255), BOUNDS[name], np.array([2]), np.array([511]), 1).item()
    assert decided == pytest.approx(said, abs=3 * math.sqrt(said * (1 - said) / RUNS) + 0.01)
    assert 0.3 < said < 0.99


# --- from samples


def test_the_estimates_of_two_samples():
    before, after = drawn(0.8, 1.2), drawn(0.9, 1.0, seed=1)
    object.__setattr__(after, "displacement", torch.linspace(0, 1, 64, dtype=torch.float64))
    found = estimates(before, after, (7, 9))
    moved = (after.transport - before.transport)[5:].mean(0)
    assert found["contraction"].change == pytest.approx(0.1) and found["contraction"].freedom == 7
    late = (after.deleted - before.deleted)[:, 6:].mean(1)
    assert found["contraction"].se == pytest.approx(reference.jackknife_se(late.numpy()))
    assert found["transport"].change == pytest.approx(float(moved.mean()))
    assert found["transport"].se == pytest.approx(reference.paired_se(moved.numpy()))
    assert found["displacement"].change == pytest.approx(0.5) and found["displacement"].freedom == 63
    assert found["displacement"].se == pytest.approx(reference.paired_se(after.displacement.numpy()))
