"""The suite watched at a user's cadence, judged by transfer, extended, and with the answers that a run records."""

import dataclasses
import math
import random
import sys

import made_up
import pytest
import torch
from paths import ROOT

from spinal_callback.alerts.rules import RULES, Limit
from spinal_callback.probe.measures import localization

SUITE = ROOT / "scripts" / "stability"
sys.path.insert(0, str(SUITE))

import arms  # noqa: E402
import baselines  # noqa: E402
import cadence  # noqa: E402
import extended  # noqa: E402
import loosened  # noqa: E402
import runs  # noqa: E402
import transfer  # noqa: E402

NAN = math.nan
ARM = {arm.name: arm for arm in arms.LONG}


def log(steps=100, share=lambda step: 0.0):
    """A log of every step; both answers are `share` of the chosen one's log-probability from the reference."""
    moved = [100.0 * share(step) for step in range(1, steps + 1)]
    columns = {name: [0.1 * sign * x for x in moved] for name, sign in (("chosen", -1), ("rejected", 1))}
    still = {name: [1.0] * steps for name in ("loss", "grad_norm", "rewards/margins")}
    return {
        "step": list(range(1, steps + 1)),
        "logps/chosen": [-100.0 - x for x in moved],
        **{f"rewards/{name}": column for name, column in columns.items()},
        **still,
    }


def jump(at, to):
    return lambda step: to if step >= at else 0.0


# --- at a user's cadence


def watched(every, logging_steps, rows=None, **courses):
    found = cadence.alerts(made_up.trace(5, 100, **courses), rows or log(), 0.1, cadence.Cadence(every, logging_steps))
    return [(alert.step, alert.rule) for alert in found]


def test_a_first_reading_over_a_limit_is_followed_by_another_five_steps_later():
    moved = {"transport": jump(45, -0.145), "noise": 0.0}  # 1.6 times the limit of late_speed in 20 steps, 1.3 in 25
    assert watched(5, 1, **moved)[0] == (45, "late_speed")
    assert watched(25, 10, **moved)[0] == (55, "late_speed")
    assert watched(25, 10) == []


def test_a_log_that_moves_fast_brings_a_reading():
    strong = {"transport": jump(60, -0.5)}
    assert watched(50, 10, **strong)[0] == (100, "late_speed")
    assert watched(50, 10, rows=log(share=jump(61, 0.5)), **strong)[0] == (75, "late_speed")


def test_a_row_of_a_sparse_log_is_the_mean_of_the_steps_since_the_last():
    rows = cadence.logged(log(25, share=lambda step: step / 100), 10)
    assert rows["step"] == [10, 20]
    assert rows["rewards/chosen"] == pytest.approx([-0.1 * 5.5, -0.1 * 15.5])
    holed = log(20)
    holed["loss"][3] = None
    assert cadence.logged(holed, 10)["loss"] == [None, 1.0]


# --- answers that a run records


def test_recorded_answers_become_the_readings_of_the_probe():
    trace = made_up.trace(5, 10)
    chosen, rejected = [[-10.0, -20.0], [-12.0, -20.0], [-9.0, -18.0]], [[-10.0, -10.0], [-11.0, -14.0], [-12.0, -16.0]]
    tokens = {"chosen": [5, 10], "rejected": [5, 5]}
    read = runs.with_answers(
        trace, {"step": [0, 5, 10], "chosen": chosen, "rejected": rejected, "tokens": tokens}
    ).readings
    assert [r.chosen_nll for r in read] == pytest.approx([2.0, 2.2, (1.8 + 1.8) / 2])
    assert [r.margin for r in read] == pytest.approx([0.0, (-2 + 1 + 0 + 4) / 2, (1 + 2 + 2 + 6) / 2])
    assert [r.accuracy for r in read] == [0.5, 0.5, 1.0]
    assert read[1].delta["chosen_nll"] == pytest.approx(0.2)
    assert read[1].delta["chosen_nll_se"] == pytest.approx(0.4 / math.sqrt(2) / math.sqrt(2))
    assert read[1].delta["margin_se"] == pytest.approx(5 / math.sqrt(2) / math.sqrt(2))
    assert read[1].delta["alpha_se"] == trace.readings[1].delta["alpha_se"]


# --- judged by transfer


def made(name, seed, harm, rows=None, **courses):
    return runs.Run(arms.Job("small-long", ARM[name], seed), harm, made_up.trace(5, 100, **courses), rows or log())


QUIET = [made("sound-full-linear-r1", seed, None) for seed in (1, 3)]
LOUD = [
    made("upset-rate50-full", 2, 60, log(share=jump(45, 0.5)), transport=jump(45, -0.5)),  # caught at 45
    made("upset-rate50-full", 4, 45, log(share=jump(45, 0.5)), transport=jump(45, -0.5)),  # at the very step
    made("upset-flip-full", 2, 60),  # never
    made("sound-full-linear-r1", 2, None),
    made("sound-lora-linear-r1", 2, None, transport=jump(80, -0.5)),  # false
]


def test_a_row_of_the_table_counted_by_hand():
    alarms = {run.job.name: transfer.rules(None, run, cadence.AS_RECORDED) for run in LOUD}
    row = transfer.row(LOUD, alarms, "warn")
    assert (row["harmed"], row["before"], row["at"], row["late"]) == (3, 1, 1, 0)
    assert (row["healthy"], row["false"], row["steps"]) == (2, 1, 200)
    assert row["leads"] == [0, 15] and row["lead"] == 7.5
    assert row["before_share"][0] == pytest.approx(1 / 3) and row["false_per_10"][0] == 5.0
    low, high = row["false_per_10"][1:]
    assert low == 0.0 and high == 10.0, "two arms: drawn again, either may be there twice"


def test_limits_come_from_the_healthy_runs_of_the_other_tier():
    tables = transfer.tables({"small-long": QUIET, "second-long": LOUD}, cadence.AS_RECORDED)
    said = {(row["limits"], row["method"], row["judged"], row["level"]): row for row in tables}
    assert {key[2] for key in said if key[0] == transfer.DEFAULT} == {"second-long"}, "the other has no testing half"
    assert {key[2] for key in said if key[0] == "small-long"} == {"second-long"}, "no source is judged on its own tier"
    assert {key[1] for key in said} == {"rules", *baselines.BASELINES}
    assert said["small-long", "kl", "second-long", "warn"]["before"] == 1
    assert "| small-long | kl | second-long |" in transfer.words({"every step": tables})


def test_a_baselines_alarm_is_a_row_over_its_limit_after_one_that_is_not():
    run = made("upset-rate50-full", 1, None, log(share=lambda step: 0.5 * (40 <= step < 50) + 0.5 * (step >= 70)))
    alarms = transfer.baseline("kl", 20.0, run, cadence.AS_RECORDED)
    assert alarms == {"warn": [40, 70], "error": [40, 70]}
    assert transfer.baseline("kl", 30.0, run, cadence.AS_RECORDED)["error"] == []


def test_the_speed_of_the_distance_forgets_what_is_behind_it():
    slow = baselines.BASELINES["speed"](log(100, share=lambda step: step / 100), 0.1)
    assert slow[50:] == pytest.approx([0.2] * 50)
    fast = baselines.BASELINES["speed"](log(100, share=jump(50, 0.4)), 0.1)
    assert max(fast) == pytest.approx(0.4) and fast[80] == 0
    holed = log(30)
    holed["logps/chosen"][10] = None
    assert baselines.BASELINES["speed"](holed, 0.1)[10] == math.inf


# --- extended


def drift(step):
    return 0.1 * extended.progress(step / 100)


def test_an_extended_run_goes_its_own_way_and_on_at_its_pace():
    trace = made_up.trace(5, 100, noise=0.0, transport=drift)
    longer = extended.Extended(trace, 1000, 1.0, seed=0)
    for step in (0, 100, 500, 1000):
        reading = longer.at(step)
        share = reading.late["transport"] / made_up.START["transport"] - 1
        assert share == pytest.approx(0.1 * extended.progress(step / 1000), abs=1e-3)
        assert reading.step == step and reading.delta["transport"] == pytest.approx(share * made_up.START["transport"])
    twice = extended.Extended(trace, 1000, 2.0, seed=0).at(1000)
    assert twice.late["transport"] / made_up.START["transport"] - 1 == pytest.approx(0.2, rel=0.02)


def test_an_extended_run_has_the_noise_of_its_own_readings():
    draw = random.Random(1)
    wobble = {step: draw.gauss(0, 0.01) for step in range(5, 101, 5)}
    trace = made_up.trace(5, 100, transport=lambda step: wobble.get(step, 0.0))
    longer = extended.Extended(trace, 10_000, 1.0, seed=0)
    read = [longer.at(step).late["transport"] / made_up.START["transport"] - 1 for step in range(25, 5000, 25)]
    changes = torch.tensor(read).diff()
    assert 0.005 < float(changes.std()) < 0.05
    assert longer.at(0).delta == trace.readings[0].delta
    assert longer.at(75).late == longer.at(75).late


def test_the_share_of_the_late_window_follows_from_the_layers():
    trace = made_up.trace(5, 100, transport=drift)
    first, last = trace.readings[0], dataclasses.replace(trace.readings[-1], transport=[1.2, 1.5, 1.8])
    moved = dataclasses.replace(trace, readings=[*trace.readings[:-1], last])
    reading = extended.Extended(moved, 1000, 1.0, seed=0).at(1000)
    changes = torch.tensor(reading.transport) - torch.tensor(first.transport)
    still = torch.tensor([NAN, 0.0, 0.0, 0.0])
    assert reading.localization == pytest.approx(localization(still, changes, (3, 4)), nan_ok=True)


def test_a_run_of_ten_thousand_steps_is_watched_and_its_broken_twin_caught():
    trace = made_up.trace(5, 100, transport=drift)
    longer = extended.Extended(trace, 10_000, 1.0, seed=0)
    assert extended.alerts((3, 4), 10_000, longer.at) == []

    def broken(step):
        reading = longer.at(step)
        late = {**reading.late, "transport": reading.late["transport"] * (1.5 if step >= 6000 else 1)}
        return dataclasses.replace(reading, late=late)

    assert extended.alerts((3, 4), 10_000, broken)[0].step == 6000


# --- looser limits


def test_looser_limits_catch_less():
    assert loosened.warned(LOUD[:3], 1.0) == (1, 2)
    factor = 2 * 0.5 / RULES["late_speed"].limit.warn
    assert loosened.warned(LOUD[:3], factor) == (0, 0)
    assert Limit(0.1).error == math.inf
