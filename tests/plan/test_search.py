"""The search for the largest setting, on a compiler that we make up."""

import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.errors import ExtraError
from extra_jax.plan.search import _MOST_COMPILATIONS, largest


def plans(needs):
    """Plans of a run that needs ``needs(value)`` bytes, and the values that were tried."""
    tried = []

    def attempt(value: int):
        tried.append(value)
        memory = {"update": types.SimpleNamespace(total=needs(value))}
        return types.SimpleNamespace(
            memory=memory, fullest="update", limit=1000, fits=needs(value) <= 1000, sentence=lambda: "needs too much"
        )

    return attempt, tried


@given(base=st.integers(0, 900), slope=st.integers(1, 400), most=st.integers(1, 5000))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_linear_growth_is_searched_exactly_and_each_value_tried_once(base: int, slope: int, most: int) -> None:
    if base + slope > 1000:
        return
    attempt, tried = plans(lambda value: base + slope * value)
    assert largest(attempt, most) == min((1000 - base) // slope, most)
    assert len(set(tried)) == len(tried) <= _MOST_COMPILATIONS


@given(steps=st.lists(st.integers(0, 60), min_size=40, max_size=40))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_uneven_growth_ends_on_a_value_that_was_tried_and_fits(steps: list[int]) -> None:
    totals = [sum(steps[: value + 1]) for value in range(40)]
    attempt, tried = plans(lambda value: totals[value - 1])
    found = largest(attempt, 40)
    assert found in tried
    assert totals[found - 1] <= 1000
    assert not any(totals[value - 1] <= 1000 for value in tried if value > found)


def test_too_much_at_one_is_an_error_with_the_verdict() -> None:
    with pytest.raises(ExtraError, match="needs too much"):
        largest(plans(lambda value: 2000)[0], 8)
