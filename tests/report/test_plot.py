"""plot.py: what a plain-text plot shows, cell by cell."""

import math

import pytest

from spinal_callback.report.plot import Curve, beside, plot

NAN = math.nan


def inside(lines):
    """The cells within the frame, line by line."""
    return [line.rstrip()[8:-1] for line in lines[2:-2]]


def marked(lines):
    """Row and column of every cell that is drawn in."""
    return {(i, j) for i, line in enumerate(inside(lines)) for j, cell in enumerate(line) if cell != " "}


def test_a_plot_has_the_size_that_was_asked_for():
    for width, height in ((29, 12), (40, 17), (54, 8)):
        lines = plot("title", [Curve(1, [1.0, 2.0, 3.0])], 3, width, height)
        assert {len(line) for line in lines} == {width} and len(lines) == height


def test_a_line_rises_from_the_lower_left_to_the_upper_right():
    lines = plot("t", [Curve(1, [0.0, 1.0])], 2, 29, 12)
    rows, columns = len(inside(lines)), len(inside(lines)[0])
    cells = marked(lines)
    assert {(rows - 1, 0), (0, columns - 1)} <= cells
    assert {column for _, column in cells} == set(range(columns))  # no gap
    assert all(abs(row - (rows - 1) * (1 - column / (columns - 1))) <= 1 for row, column in cells)


def test_a_level_line_is_a_row_of_dots():
    rows = inside(plot("t", [Curve(1, [0.5, 0.5])], 2, 29, 12))
    assert [row.strip() for row in rows if row.strip()] == ["\u2809" * 20]  # the upper two dots of each cell


def test_dots_are_one_per_column_and_a_line_is_drawn_over_them():
    dotted = Curve(1, [0.0, 0.0, 0.0], dotted=True)
    lines = inside(plot("t", [dotted, Curve(1, [0.0, 1.0, 1.0])], 3, 29, 12))
    assert inside(plot("t", [dotted], 3, 29, 12))[4] == "." * 20
    assert lines[-1].count(".") in range(15, 20) and lines[-1][0] not in ". "


def test_a_missing_value_is_a_gap():
    lines = plot("t", [Curve(1, [1.0, NAN, 1.0, 1.0])], 4, 29, 12)
    columns = {column for _, column in marked(lines)}
    assert columns == {0, *range(13, 20)}


def test_a_curve_begins_at_its_first_layer():
    assert min(column for _, column in marked(plot("t", [Curve(2, [1.0, 1.0])], 3, 29, 12))) == 10


@pytest.mark.parametrize("values", [[], [NAN, NAN], [2.0], [0.0, 0.0]])
def test_whatever_there_is_is_drawn(values):
    lines = plot("t", [Curve(1, values)], 2, 29, 12)
    assert bool(marked(lines)) == any(value == value for value in values)
    assert "nan" not in "".join(lines)


def test_the_edges_tell_the_least_and_the_greatest_value_and_the_first_and_the_last_layer():
    lines = plot("t", [Curve(1, [0.25, *[0.5] * 28, 1.75])], 30, 40, 16)
    told = [line.split()[0] for line in lines if "┤" in line]
    assert (told[0], told[-1], len(told)) == ("1.750", "0.250", 4)
    assert lines[-1].split() == ["1", "6", "12", "18", "24", "30"]
    assert plot("t", [Curve(1, [1.0])], 1, 40, 16)[-1].split() == ["1"]


def test_plots_stand_beside_each_other():
    one, two = (plot(title, [Curve(1, [0.0, 1.0])], 2, 20, 8) for title in ("left", "right"))
    lines = beside([one, two]).splitlines()
    assert len(lines) == 8 and lines[0].split() == ["left", "right"]
    assert all(both.startswith(a) for both, a in zip(lines, one, strict=True))
