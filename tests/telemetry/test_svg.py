"""Charts are well-formed, have ticks that cover the data, and never draw what is not there."""

import itertools
import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.telemetry.svg import (
    Series,
    line_chart,
    moving_average,
    nice_ticks,
    number,
    percent,
    stacked_bar,
    stacked_shares,
)


def elements(svg, name):
    return [e for e in ElementTree.fromstring(svg).iter() if e.tag.endswith(name)]


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32)), min_size=1, max_size=40),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_any_values_give_a_well_formed_chart_inside_its_box(values, from_zero):
    svg = line_chart([Series("a<b", range(len(values)), values)], description='x "y" <z>', from_zero=from_zero)
    for line in elements(svg, "polyline"):
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert -1 <= x <= 381
            assert -1 <= y <= 211


def test_gaps_break_the_line_and_lone_points_stay_visible():
    svg = line_chart([Series("a", range(6), [1, 2, None, 3, math.nan, 5])], description="d")
    assert [len(line.get("points").split()) for line in elements(svg, "polyline")] == [2]
    assert len([c for c in elements(svg, "circle") if "dot" in c.get("class")]) == 2


def test_no_data_says_so():
    assert "no data" in line_chart([Series("a", [1], [None])], description="d")
    assert "no data" in stacked_shares([1.0], [("a", [None], 0)], description="d")


def test_intervals_are_drawn_and_told():
    svg = line_chart(
        [Series("pass@1", [0, 10], [0.2, 0.4], low=[0.1, 0.3], high=[0.3, 0.5], points=True)],
        description="d", unit="share",
    )  # fmt: skip
    assert len([e for e in elements(svg, "line") if "bar" in e.get("class")]) == 2
    assert "pass@1: 40% [30%, 50%]" in svg


def test_hover_columns_stay_few_in_long_runs():
    svg = line_chart([Series("a", range(5000), [float(i) for i in range(5000)])], description="d")
    assert len([r for r in elements(svg, "rect") if r.get("class") == "hover"]) <= 160


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
@settings(deadline=None)
def test_ticks_cover_the_range_and_are_few(a, b):
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high)
    invisible = 1e-6 * (ticks[1] - ticks[0])
    assert ticks[0] <= low + invisible
    assert ticks[-1] >= high - invisible
    assert 2 <= len(ticks) <= 8
    assert all(x < y for x, y in itertools.pairwise(ticks))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.31, "0.31"), (1250, "1,250"), (310000, "310k"), (2.5e-6, "2.5e-06"), (12.345, "12.35")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_small_axes_use_one_style():
    svg = line_chart([Series("lr", [1, 2], [0.0, 1e-4])], description="d")
    labels = [t.text for t in elements(svg, "text") if t.get("text-anchor") == "end"]
    assert labels == ["0", "2.5e-5", "5e-5", "7.5e-5", "1e-4"]


def test_percent():
    assert [percent(v) for v in (0, 0.125, 1)] == ["0%", "12.5%", "100%"]


def test_moving_average_skips_gaps():
    assert moving_average([1.0, 2.0, None, 4.0], 3) == [1.5, 1.5, None, 4.0]


def test_stacks_are_well_formed():
    shares = [("a", [0.5, 0.6], 0), ("b", [0.5, 0.4], 1)]
    assert len(elements(stacked_shares([1, 2], shares, description="d"), "polygon")) == 2
    bar = stacked_bar([("a", 3.0, 0), ("b", 1.0, 1)], description="d", width=100)
    widths = [float(r.get("width")) for r in elements(bar, "rect")]
    assert widths == pytest.approx([73.5, 23.5])
    stacked_bar([("a", 0.0, 0)], description="d")
