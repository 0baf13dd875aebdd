"""history.py: what is kept of a run, however long."""

import dataclasses
import itertools

import pytest
from builders import alert, header, notice, reading

from spinal_callback.sinks.history import CELLS, FEWEST, History, evenly

ONE = reading(0)


def history(count, layers=80):
    kept = History()
    for record in (header(layers, (layers, layers)), *(dataclasses.replace(ONE, step=step) for step in range(count))):
        kept.add(record)
    return kept


@pytest.mark.parametrize("count", [1, 2, 999, 1000])
def test_all_of_a_short_run_is_kept(count):
    assert [r.step for r in history(count).trace.readings] == list(range(count))


@pytest.mark.parametrize("count", [1001, 1002, 1003, 2001, 5000, 12_345])
def test_a_long_run_is_thinned_evenly_and_keeps_its_first_and_latest(count):
    kept = history(count)
    steps = [r.step for r in kept.trace.readings]
    assert kept.seen == count and CELLS // 80 // 2 < len(steps) <= CELLS // 80
    assert steps[0] == 0 and steps[-1] == count - 1
    assert len({b - a for a, b in itertools.pairwise(steps[:-1])}) == 1


@pytest.mark.parametrize(("count", "kept"), [(987, 987), (989, 495)])
def test_it_is_thinned_only_when_it_is_too_long(count, kept):
    """80,000 cells are 987 readings of 81 layers."""
    assert len(history(count, layers=81).trace.readings) == kept


def test_a_deep_model_keeps_enough_and_alerts_and_notices_are_all_kept():
    kept = history(500, layers=2000)
    for step in range(300):
        kept.add(alert(step))
        kept.add(notice(step))
    assert FEWEST // 2 < len(kept.trace.readings) <= FEWEST
    assert kept.trace.alerts == [alert(step) for step in range(300)]
    assert kept.trace.notices == [notice(step) for step in range(300)]


def test_a_resumed_run_goes_on_with_its_first_part():
    kept = History([header(model="first"), reading(0), alert(0)])
    for record in (header(model="second"), reading(5)):
        kept.add(record)
    assert kept.trace.header.model == "first" and [r.step for r in kept.trace.readings] == [0, 5]
    assert kept.trace.alerts == [alert(0)] and kept.seen == 2


def test_before_a_header_there_is_nothing():
    kept = History()
    kept.add(reading(0))
    assert kept.trace is None


def test_evenly():
    assert evenly([1, 2, 3], 5) == [1, 2, 3] and evenly(range(101), 5) == [0, 25, 50, 75, 100]
    assert evenly(range(10), 2) == [0, 9]
