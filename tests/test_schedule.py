"""schedule.py: which steps are due, and how long until the next probe."""

import math

import pytest

from spinal_callback.schedule import CEILING, FIRST, FLOOR, Schedule


def probed_at(schedule, steps, interval_of=lambda step: None):
    """Steps at which a run with this schedule probes; `interval_of`: what the ranks adopt at each."""
    seen = []
    for step in range(steps + 1):
        if schedule.due(step):
            seen.append(step)
            schedule.probed(step, interval_of(step) or schedule.proposed(1.0, 1.0))
    return seen


@pytest.mark.parametrize("every", [1, 5, 7])
def test_every_n_steps(every):
    assert probed_at(Schedule(every, 0.01), 30) == list(range(0, 31, every))


def test_every_n_steps_whatever_probes_cost():
    schedule = Schedule(5, 0.01)
    assert schedule.proposed(1000.0, 0.001) == schedule.proposed(0.001, 1000.0) == 5
    assert probed_at(schedule, 21) == [0, 5, 10, 15, 20]


def test_a_resumed_run_probes_at_the_same_steps():
    assert [s for s in range(13, 30) if Schedule(5, 0.01).due(s)] == [15, 20, 25]


def test_auto_begins_after_a_few_steps():
    schedule = Schedule("auto", 0.01)
    assert [schedule.due(step) for step in range(FIRST + 2)] == [False] * FIRST + [True, True]
    schedule.probed(0, schedule.proposed(2.0, 0.0))  # at step 0 no step has been timed
    assert schedule.interval == FIRST


def test_auto_keeps_to_the_interval_that_was_adopted_last():
    adopted = {5: 3, 8: 10, 18: 2}
    assert probed_at(Schedule("auto", 0.01), 22, lambda step: adopted.get(step, 2)) == [5, 8, 18, 20, 22]


@pytest.mark.parametrize(
    ("overhead", "probe", "step", "interval"),
    [
        (0.01, 1.0, 1.0, 99),  # 1 s of 100
        (0.5, 3.0, 1.0, 3),
        (0.1, 1.0, 2.0, 5),  # 4.5, rounded up
        (0.01, 0.001, 1.0, FLOOR),
        (1.0, 9.0, 1.0, FLOOR),
        (0.01, 100.0, 1.0, CEILING),
        (0.01, 1.0, 1e-9, CEILING),
        (0.01, 1.0, 0.0, FIRST),
        (0.01, 1.0, math.nan, FIRST),
    ],
)
def test_auto_interval(overhead, probe, step, interval):
    assert Schedule("auto", overhead).proposed(probe, step) == interval


@pytest.mark.parametrize("overhead", [0.003, 0.01, 0.2])
@pytest.mark.parametrize("probe", [0.01, 0.7, 6.0])
@pytest.mark.parametrize("step", [0.05, 0.9, 6.0])
def test_auto_keeps_probes_under_their_share_and_wastes_none_of_it(overhead, probe, step):
    interval = Schedule("auto", overhead).proposed(probe, step)

    def share(steps):
        return probe / (probe + steps * step)

    assert FLOOR <= interval <= CEILING
    assert share(interval) <= overhead * (1 + 1e-9) or interval == CEILING
    assert interval == FLOOR or share(interval - 1) > overhead * (1 - 1e-9)
