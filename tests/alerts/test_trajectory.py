"""trajectory.py: what the rules see of a reading, against numbers worked out by hand."""

import json
import math

import pytest
from builders import reading

from spinal_callback.alerts.trajectory import APART, HORIZON, PAST, SETTLED, Trajectory, speed, sure

NAN = math.nan
WINDOW = (3, 4)


def trajectory(*readings, window=WINDOW):
    made = Trajectory(window)
    for r in readings:
        made.add(r)
    return made


def test_only_what_noise_does_not_explain_counts():
    assert sure(0.5, 0.1) == pytest.approx(0.3) and sure(-0.5, 0.1) == pytest.approx(-0.3)
    assert sure(0.2, 0.1) == 0 and sure(-0.1, 0.1) == 0
    assert sure(0.5, NAN) == 0.5 and sure(NAN, 0.1) == 0 and sure(math.inf, 0.1) == 0


def test_a_point_holds_changes_since_the_first_reading():
    first = reading(0, entropy=2.0, coherence=0.8, effective_rank=[NAN, 1.0, 10.0, 30.0], chosen_nll=2.0)
    second = reading(
        10,
        late={"alpha": 1.02, "transport": 1.25},
        delta={"alpha": 9.0, "alpha_se": 0.017, "transport": 9.0, "transport_se": 0.02, "chosen_nll_se": 0.1},
        entropy=1.5,
        coherence=0.7,
        effective_rank=[NAN, 9.0, 5.0, 15.0],
        localization=0.75,
        displacement=0.3,
        chosen_nll=2.5,
    )
    point = trajectory(first, second).now
    assert (point.alpha, point.alpha_se) == pytest.approx((0.17 / 0.85, 0.017 / 0.85))
    assert (point.transport, point.transport_se) == pytest.approx((-0.1 / 1.35, 0.02 / 1.35))
    assert (point.entropy, point.coherence) == pytest.approx((-0.5, -0.1))
    assert point.rank == pytest.approx(math.log(10 / 20))  # layers 3 and 4 alone
    assert point.spread == pytest.approx((0.25 / 2) / (0.75 / 2))  # two layers outside, two inside
    assert point.displacement == 0.3
    assert (point.likelihood, point.likelihood_se) == pytest.approx((-0.5 / 2, 0.1 / 2))
    assert point.moved == pytest.approx(math.hypot(0.06 / 1.35, 0.2 - 0.04))


def test_the_first_reading_need_not_be_the_reference():
    """An adapter run whose adapters did something already: readings' own deltas do not begin at 0."""
    begun = {"alpha": 0.3, "alpha_se": 0.01, "transport": 0.4, "transport_se": 0.01}
    point = trajectory(reading(0, delta=begun), reading(5, delta=begun)).now
    assert (point.alpha, point.transport) == (0, 0)


def test_the_layers_that_moved_most_are_named():
    first = reading(0, layers=6, transport=[1.0] * 5, alpha=[NAN, 0.5, 0.5, 0.5, 0.5, 0.5])
    moved = reading(5, layers=6, transport=[1.0, 1.0, 1.0, 1.3, 1.02], alpha=[NAN, 0.5, 0.5, 0.7, 0.5, 0.5])
    path = trajectory(first, moved, window=(5, 6))
    assert path.now.movers == [4, 5]  # alpha of layer 4; the step that ends at layer 5
    assert trajectory(first, first, window=(5, 6)).now.movers == []


def test_with_nan_about_the_layers_without_a_value_are_named():
    assert trajectory(reading(0), reading(5, alpha=[0.1, NAN, 0.3, NAN], nonfinite=3)).now.movers == [2, 4]


@pytest.mark.parametrize("every", [1, 5, 20, 50])
def test_recent_points_are_those_within_the_horizon_and_the_one_before(every):
    path = trajectory(*(reading(step) for step in range(0, 201, every)))
    older, *steps = [p.step for p in path.before]
    assert steps == list(range(200 - HORIZON // every * every, 200, every))
    assert 200 - HORIZON - max(every, APART) <= older < 200 - HORIZON


@pytest.mark.parametrize(("every", "kept"), [(1, 16 + 20), (5, 20), (20, 5), (50, 2), (500, 1)])
def test_of_older_points_few_are_kept(every, kept):
    path = trajectory(*(reading(step) for step in range(0, 20 * every + 401, every)))
    now = path.now.step
    assert all(p.step >= now - PAST for p in path.past) or every > PAST
    assert len(path.past) == pytest.approx(kept, abs=1)


def test_a_speed_is_usual_once_it_has_settled():
    rise = [reading(s, displacement=0.01 * s) for s in range(0, 101, 10)]
    path = trajectory(*rise)
    assert path.pace["displacement"] == pytest.approx(0.2)
    path.add(reading(110, displacement=3.0))
    assert speed(path, "displacement") == pytest.approx(3.0 - 0.9)
    assert path.pace["displacement"] == pytest.approx(0.2), "a run that breaks is not its own norm"
    for step in range(120, 120 + SETTLED + 10, 10):
        path.add(reading(step, displacement=3.0))
    assert path.pace["displacement"] == pytest.approx(3.0 - 0.9)


def test_the_extremes_of_the_whole_run_stay():
    late = [0.85, 0.95, 0.80, *[0.9] * 60]
    path = trajectory(*(reading(i, late={"alpha": a, "transport": 1.0}) for i, a in enumerate(late)))
    assert [p.step for p in path.extremes["alpha"]] == [2, 1]
    assert [p.step for p in path.extremes["transport"]] == [0, 0]


def test_a_reading_without_numbers_leaves_the_extremes():
    lost = reading(5, late={"alpha": NAN, "transport": NAN}, entropy=NAN, coherence=NAN, localization=NAN)
    path = trajectory(reading(0), lost, reading(10))
    assert [p.step for p in path.extremes["alpha"]] == [0, 0]
    assert path.points[1].moved == 0


def test_it_comes_back_from_json_as_it_was():
    path = trajectory(*(reading(s, late={"alpha": 0.8 + s / 100, "transport": 1.0}) for s in range(0, 60, 5)))
    again = Trajectory.from_json(json.loads(json.dumps(path.to_json())))
    path.add(reading(60)), again.add(reading(60))
    assert repr(again) == repr(path)
