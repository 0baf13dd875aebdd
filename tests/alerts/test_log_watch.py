"""log_watch.py: which rows of the Trainer's log ask for a probe, and how often they may."""

import json
import math
from itertools import pairwise

import pytest

from spinal_callback.alerts.log_watch import FAST, LONGEST_QUIET, QUIET, LogWatch


def row(share, reference=-100.0, beta=0.1):
    """A row in which both answers have moved from the reference by `share` of the chosen answer's log-probability."""
    moved = share * abs(reference)
    return {
        "rewards/chosen": -beta * moved,
        "rewards/rejected": beta * moved,
        "logps/chosen": reference - moved,
        "beta": beta,
    }


def asked(shares, every=10, **fields):
    """Steps at which a log with these shares, one every so many steps, asks for a probe."""
    watch = LogWatch()
    return [i * every for i, share in enumerate(shares) if watch.update(i * every, row(share, **fields))]


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("reference", [-20.0, -300.0])
def test_a_jump_asks_whatever_the_length_of_answers_and_beta(beta, reference):
    assert asked([0, 0.01, 0.02, 0.03 + FAST, 0.03 + FAST], beta=beta, reference=reference) == [30]


def test_a_slow_way_to_the_same_place_does_not():
    assert asked([i * FAST / 4 for i in range(40)]) == []


@pytest.mark.parametrize(("jump", "asks"), [(0.9, [100]), (0.4, [])])
def test_a_jump_between_distant_rows_counts_as_even(jump, asks):
    """Rows 100 steps apart: only what would be fast in every 20 steps of them is."""
    assert asked([0, jump * 100 / 20 * FAST / 0.8], every=100) == asks


def test_it_asks_ever_less_often():
    steps = asked([i * 2 * FAST for i in range(400)], every=10)
    assert [b - a for a, b in pairwise(steps)][:5] == [QUIET, 2 * QUIET, 4 * QUIET, 8 * QUIET, 320]
    assert steps[-1] - steps[-2] == LONGEST_QUIET


@pytest.mark.parametrize(
    "change",
    [
        {"beta": None},
        {"beta": 0.0},
        {"logps/chosen": math.nan},
        {"rewards/chosen": "1"},
        {"rewards/rejected": math.inf},
    ],
)
def test_a_row_without_the_numbers_says_nothing(change):
    watch = LogWatch()
    assert not watch.update(1, row(0.0))
    assert not watch.update(2, row(5.0) | change)
    assert watch.rows == [(1, 0.0)]
    assert watch.update(3, row(5.0))


def test_a_resumed_run_asks_as_the_whole_one_would():
    shares = [i * 2 * FAST for i in range(40)]
    first = LogWatch()
    said = [first.update(10 * i, row(share)) for i, share in enumerate(shares[:20])]
    second = LogWatch.from_json(json.loads(json.dumps(first.to_json())))
    said += [second.update(10 * i, row(share)) for i, share in enumerate(shares[20:], 20)]
    assert [10 * i for i, asks in enumerate(said) if asks] == asked(shares)


def test_a_state_that_was_saved_without_one():
    assert LogWatch.from_json({}) == LogWatch()
