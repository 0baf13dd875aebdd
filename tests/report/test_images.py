"""images.py: what the pixels say."""

import math
import warnings

import numpy as np
import pytest
from builders import alert, header, reading

from spinal_callback.report.images import NOTHING, depth_trace, heatmaps
from spinal_callback.traces import Trace

pytest.importorskip("PIL")
NAN = math.nan
PURPLE, YELLOW, PALE = (0x44, 0x01, 0x54), (0xFD, 0xE7, 0x25), (0xF4, 0xEF, 0xEB)  # ends of viridis, middle of vik


def run(*, steps=(0, 10, 20, 30), change=0.1, alerts=()):
    """Four layers: contraction and transport rise with the layer; the last layer moves, up and down."""
    readings = [
        reading(
            s,
            alpha=[NAN, 0.2, 0.6, 1.0 + change * s],
            alpha_se=[NAN, 0.0, 0.0, 0.0],
            transport=[0.0, 1.0, 2.0 - change * s],
            transport_se=[0.0] * 3,
        )
        for s in steps
    ]
    return Trace(header(), readings, list(alerts))


def cell(image, column, row, layer, layers, step, last=30):
    """The colour in the middle of a cell; `layers`: how many the panel shows, `layer` counted from 1."""
    x = column * 500 + 58 + (0.001 + 0.998 * step / last) * (500 - 58 - 16)
    y = row * 330 + 44 + (layers - layer + 0.5) / layers * (330 - 44 - 40)
    return image.getpixel((int(x), int(y)))


def near(a, b, most=6):
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) <= most


def test_the_lowest_layer_is_below_and_the_colours_are_those_of_the_values():
    image = heatmaps(run(change=0))
    assert image.size == (1000, 660)
    assert [cell(image, 0, 0, 1, 4, s) for s in (0, 30)] == [NOTHING] * 2  # this layer has no tail
    assert near(cell(image, 0, 0, 2, 4, 15), PURPLE) and near(cell(image, 0, 0, 4, 4, 15), YELLOW)
    assert near(cell(image, 1, 0, 1, 3, 15), PURPLE) and near(cell(image, 1, 0, 3, 3, 15), YELLOW)


def test_the_change_is_pale_at_the_start_and_where_nothing_moves():
    image = heatmaps(run())
    for column, layers in ((0, 4), (1, 3)):
        assert near(cell(image, column, 1, layers, layers, 0), PALE)
        assert near(cell(image, column, 1, layers - 1, layers, 30), PALE)
    up, down = cell(image, 0, 1, 4, 4, 30), cell(image, 1, 1, 3, 3, 30)
    assert up[0] > up[2] + 50 and down[2] > down[0] + 50  # brown and blue
    half = cell(image, 0, 1, 4, 4, 10)
    assert up[0] < half[0] < PALE[0]


def test_a_cell_reaches_halfway_to_the_next_reading():
    image = heatmaps(run(steps=(0, 30)))
    assert cell(image, 0, 1, 4, 4, 14) == cell(image, 0, 1, 4, 4, 0) != cell(image, 0, 1, 4, 4, 16)


def test_alerts_are_marked_at_their_step():
    marks = [alert(10, level="warn"), alert(20)]
    plain, marked = (np.array(heatmaps(run(alerts=a)), dtype=int) for a in ((), marks))
    changed = np.flatnonzero((plain != marked).any(axis=(0, 2)))
    expected = [column * 500 + 58 + step / 30 * 426 for column in (0, 1) for step in (10, 20)]
    assert all(min(abs(x - e) for e in expected) <= 6 for x in changed)
    assert all(min(abs(x - e) for x in changed) <= 1 for e in expected)


def blue(image, column):
    """Where the line of the latest reading runs: its mean height per pixel column of a panel."""
    panel = np.array(image, dtype=int)[44:290, column * 500 + 60 : column * 500 + 480]
    ink = np.abs(panel - (0, 0x72, 0xB2)).sum(axis=2) < 60
    return [float(np.flatnonzero(c).mean()) if c.any() else NAN for c in ink.T]


def test_the_depth_trace_rises_with_the_values_and_leaves_a_gap():
    line = blue(depth_trace(run(change=0)), 0)
    known = np.flatnonzero(np.isfinite(line))
    assert 420 / 3 - 3 <= known[0] <= 420 / 3 + 3 and known[-1] > 415  # layer 1 has no value
    assert line[known[0]] > line[known[-1]] + 150
    assert all(np.isfinite(blue(depth_trace(run(change=0)), 1)[420 // 3 + 2 :]))


def test_the_start_stays_behind_the_latest():
    still, moved = (np.array(depth_trace(run(change=c)), dtype=int) for c in (0, 0.1))
    grey = [(np.ptp(image, axis=2) < 20) & (image.mean(axis=2) < 0xD0) for image in (still[44:286], moved[44:286])]
    assert grey[1].sum() > grey[0].sum() + 100  # hidden by the line as long as nothing has moved


@pytest.mark.parametrize("draw", [heatmaps, depth_trace])
@pytest.mark.parametrize(
    "trace",
    [
        run(steps=(0,)),
        Trace(header(), [reading(s, alpha=[NAN] * 4, transport=[NAN] * 3) for s in (0, 5)]),
        Trace(header(), [reading(s, alpha=[0.5] * 4, transport=[1.0] * 3) for s in (0, 5)]),
        Trace(header(1, (1, 1)), [reading(0, 1, transport=[], transport_se=[])]),
        Trace(header(2, (1, 2)), [reading(s, 2, transport=[1.0], transport_se=[NAN]) for s in (3, 900_000)]),
    ],
    ids=["one reading", "no values", "all alike", "one layer", "two layers"],
)
def test_whatever_a_trace_holds_is_drawn(draw, trace):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw(trace).size[0] == 1000
