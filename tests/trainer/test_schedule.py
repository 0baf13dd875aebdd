"""schedule.py: which steps are due, how long until the next probe, and what probes have cost."""

import itertools
import math

import pytest

from spinal_callback.trainer.schedule import ADVANCE, CEILING, CLOSE, FIRST, FLOOR, Clock, Cost, Schedule


def probed_at(schedule, steps, interval_of=lambda step: None):
    """Steps at which a run with this schedule probes; `interval_of`: what the ranks adopt at each."""
    seen = []
    for step in range(steps + 1):
        if schedule.due(step):
            seen.append(step)
            schedule.adopt(step, interval_of(step) or schedule.interval)
    return seen


def run(steps, probe, overhead=0.01, raised=lambda step: 0.0):
    """A whole run with every="auto" and steps of 1 s: the steps probed."""
    schedule, seen = Schedule("auto", overhead), []
    for step in range(steps + 1):
        if step in (0, steps) or schedule.due(step):
            seen.append(step)
            cost = Cost(probe, float(step > 0), probe * len(seen))
            schedule.adopt(step, schedule.proposed(cost, step, steps, raised(step)))
    return seen


@pytest.mark.parametrize("every", [1, 5, 7])
def test_every_n_steps(every):
    assert probed_at(Schedule(every, 0.01), 30) == list(range(0, 31, every))


def test_every_n_steps_whatever_probes_cost():
    schedule = Schedule(5, 0.01)
    for cost in (Cost(1000.0, 0.001, 5e5), Cost(0.001, 1000.0, 0.1)):
        assert schedule.proposed(cost, 7, 100, raised=1.0) == 5
    assert probed_at(schedule, 21) == [0, 5, 10, 15, 20]


@pytest.mark.parametrize(("every", "then"), [(10, [0, 10, 13, 20]), ("auto", [0, 5, 13, 18, 23])])
def test_a_probe_that_is_asked_for_comes_beside_the_usual_ones(every, then):
    """With "auto" the interval begins anew at it."""
    schedule, seen = Schedule(every, 0.01), []
    for step in range(25):
        if step in (0, 13) or schedule.due(step):
            assert step != 13 or schedule.due(step)
            seen.append(step)
            schedule.adopt(step, {5: 20}.get(step, schedule.interval if every == 10 else 5))
        if step == 10:
            schedule.ask(13)
    assert seen == then


@pytest.mark.parametrize(("every", "gaps"), [(10, [10, 3, 3, 10]), ("auto", [10, 3, 10, 10])])
def test_how_long_it_is_until_the_next_probe(every, gaps):
    schedule = Schedule(every, 0.01)
    schedule.adopt(0, 10)
    schedule.ask(13)
    assert [schedule.until_next(step) for step in (0, 10, 17, 20)] == gaps


def test_a_resumed_run_probes_at_the_same_steps():
    assert [s for s in range(13, 30) if Schedule(5, 0.01).due(s)] == [15, 20, 25]


def test_auto_begins_after_a_few_steps():
    schedule = Schedule("auto", 0.01)
    assert [schedule.due(step) for step in range(FIRST + 2)] == [False] * FIRST + [True, True]
    schedule.adopt(0, schedule.proposed(Cost(2.0, 0.0, 2.0), 0, 1000))  # at step 0 no step has been timed
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
        (0.01, 0.001, 1.0, 1),
        (1.0, 9.0, 1.0, 1),
        (0.01, 100.0, 1.0, 500),
        (0.01, 1.0, 1e-9, 500),
        (0.01, 1.0, 0.0, 5),
        (0.01, 1.0, math.nan, 5),
    ],
)
def test_auto_interval(overhead, probe, step, interval):
    """Where the budget is neither overdrawn nor saved up, and there is none to borrow."""
    cost = Cost(probe, step, 0.0)
    assert Schedule("auto", overhead).proposed(cost, 1000, 0) == interval


@pytest.mark.parametrize(("steps", "interval"), [(12, 12), (10, 11)])
def test_what_was_overdrawn_is_earned_before_the_next_probe(steps, interval):
    """Half the time may go into probes of 1 s. After 10 s of training they have taken 20 s; the next takes 1 s more,
    and so does that at the end, unless this is the end."""
    assert Schedule("auto", 0.5).proposed(Cost(1.0, 1.0, 20.0), 10, steps) == interval


@pytest.mark.parametrize(("spent", "interval"), [(106.0, 10), (108.0, 46)])
def test_warm_up_borrows_no_more_than_the_rest_of_the_run_may_lend(spent, interval):
    """Half the time may go into probes. At step 10 of 100, of 2 s each, 20 s are earned and 90 s may be borrowed. The
    next probe and the last take 2 s each: the first run then needs just as much, the second 2 s more and waits."""
    assert Schedule("auto", 0.5).proposed(Cost(2.0, 2.0, spent), 10, 100) == interval


@pytest.mark.parametrize(("probe", "interval"), [(499.0, 10), (500.0, 500)])
def test_a_probe_that_the_ceiling_makes_too_frequent_borrows_nothing(probe, interval):
    assert Schedule("auto", 0.5).proposed(Cost(probe, 1.0, probe), 10, 10_000) == interval


@pytest.mark.parametrize("overhead", [0.003, 0.01, 0.2])
@pytest.mark.parametrize("probe", [0.7, 2.0, 6.0])
@pytest.mark.parametrize("raised", [0.0, 0.4, 1.0])
def test_auto_keeps_a_run_under_its_share_and_wastes_little_of_it(overhead, probe, raised):
    steps = 20_000
    spent = len(run(steps, probe, overhead, lambda step: raised)) * probe
    budget, ceiling = overhead / (1 - overhead) * steps, steps / CEILING * probe
    assert 0.9 * max(budget, ceiling) <= spent <= max(budget, ceiling + 2 * probe)


def test_a_long_run_is_looked_at_more_often_in_its_warm_up():
    seen = run(10_000, 1.0)
    assert seen[:7] == [0, 5, 10, 20, 40, 80, 160]
    gaps = [b - a for a, b in itertools.pairwise(seen)]
    assert all(gap >= 99 for gap in gaps[6:-1]), "calm: at most one probe in 99 steps"
    assert sum(step <= 1000 for step in seen) <= 12, "what warm-up took is paid back"


@pytest.mark.parametrize("steps", [300, 1000, 5000])
def test_the_probe_at_the_end_is_saved_up_for(steps):
    assert len(run(steps, 1.0)) <= max(steps / 99, 3)
    assert run(steps, 1.0)[-1] == steps


def test_a_short_run_spends_no_more_than_the_probes_it_cannot_do_without():
    assert run(100, 1.0) == [0, 5, 100]  # a hundredth of it is one probe


def test_a_rule_that_is_about_to_warn_is_watched_closely_as_long_as_the_budget_lasts():
    calm, near = run(10_000, 1.0), run(10_000, 1.0, raised=lambda step: float(3000 <= step < 3200))
    assert [step for step in near if step < 3000] == [step for step in calm if step < 3000]
    watched = [step for step in near if 3000 <= step < 3200]
    assert len(watched) >= 20
    assert {b - a for a, b in itertools.pairwise(watched)} == {CLOSE}
    assert len(near) <= len(calm) + 1, "later probes pay for it"
    always = run(10_000, 1.0, raised=lambda step: 1.0)
    assert always[20] == 20 * CLOSE
    assert len([s for s in always if s <= 400]) <= ADVANCE * 10_400 / 99 + 2


def test_how_near_a_rule_is_counts_by_degrees():
    cost = Cost(1.0, 1.0, 5.0)
    gaps = [Schedule("auto", 0.01).proposed(cost, 2000, 100_000, raised) for raised in (0.0, 0.5, 1.0)]
    assert gaps[0] == 99
    assert CLOSE < gaps[1] < 99
    assert gaps[2] == CLOSE


def test_floor_and_ceiling_hold_whatever_is_measured():
    for cost in (Cost(1e-9, 1.0, 1e-9), Cost(1e9, 1e-9, 1e9), Cost(1.0, math.inf, 1.0)):
        for raised in (0.0, 1.0):
            assert FLOOR <= Schedule("auto", 0.01).proposed(cost, 50, 100, raised) <= CEILING


# --- the clock


class Time:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_the_clock_tells_probing_from_training():
    """A run resumed at step 3: 8 of its first 10 s go into four steps, 15 of its 20 s into five."""
    time = Time()
    clock = Clock(3, time)
    assert clock.spent == 0.0
    time.now += 10.0
    assert clock.add_probe(2.0) == 0.2
    assert clock.spent == 2.0
    assert clock.step_seconds(7) == 2.0
    time.now += 10.0
    assert clock.add_probe(3.0) == 0.25
    assert clock.spent == 5.0
    assert clock.step_seconds(8) == 3.0


def test_the_time_of_a_step_is_not_known_before_the_first():
    time = Time()
    clock = Clock(3, time)
    time.now += 10.0
    assert clock.step_seconds(3) == 0.0
    assert clock.step_seconds(4) == 10.0


def test_a_clock_that_has_not_moved_divides_by_nothing():
    clock = Clock(0, Time())
    assert clock.add_probe(0.0) == 0.0
    assert math.isfinite(clock.add_probe(1.0))


def test_the_clock_is_the_machines():
    clock = Clock(0)
    shares = [clock.add_probe(0.0), clock.add_probe(1e-6), clock.add_probe(1e6)]
    assert shares[0] == 0.0
    assert shares[1] < 1e3 < shares[2], "seconds, of a clock that has just begun"
