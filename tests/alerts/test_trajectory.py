"""trajectory.py: what the rules see of a reading, against numbers worked out by hand."""

import json
import math

import pytest
from builders import reading

from spinal_callback.alerts.trajectory import HORIZON, Trajectory, sure

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
    first = reading(0, entropy=2.0, coherence=0.8, effective_rank=[NAN, 1.0, 10.0, 30.0])
    second = reading(
        10,
        late={"alpha": 1.02, "transport": 1.25},
        delta={"alpha": 9.0, "alpha_se": 0.017, "transport": 9.0, "transport_se": 0.02},
        entropy=1.5,
        coherence=0.7,
        effective_rank=[NAN, 9.0, 5.0, 15.0],
        localization=0.75,
        displacement=0.3,
        trainer={"rewards/chosen": -0.5, "logps/chosen": -55.0, "beta": 0.1},
    )
    point = trajectory(first, second).now
    assert (point.alpha, point.alpha_se) == pytest.approx((0.17 / 0.85, 0.017 / 0.85))
    assert (point.transport, point.transport_se) == pytest.approx((-0.1 / 1.35, 0.02 / 1.35))
    assert (point.entropy, point.coherence) == pytest.approx((-0.5, -0.1))
    assert point.rank == pytest.approx(math.log(10 / 20))  # layers 3 and 4 alone
    assert point.spread == pytest.approx((0.25 / 2) / (0.75 / 2))  # two layers outside, two inside
    assert point.displacement == 0.3
    assert point.chosen == pytest.approx(-5 / 50)  # 5 nats of the reference's 50
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
def test_what_lies_behind_the_horizon_is_let_go(every):
    path = trajectory(*(reading(step) for step in range(0, 201, every)))
    steps = [p.step for p in path.before]
    assert steps == list(range(200 - max(HORIZON // every * every, every), 200, every))


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
