"""Programs are compiled for few sizes, and short contexts do not cost as much as long ones."""

from itertools import pairwise

import pytest

from extra_jax.rollout.programs import Sizes, prefill_rows
from rollout.tiny import sampler

SIZES = Sizes(shards=1, slots=128, chunk=8, longest=4096)


def test_a_width_holds_its_context_and_wastes_little():
    widths = [SIZES.width_for(length) for length in range(1, 4000)]
    assert all(length <= width <= max(16, 2 * length) for length, width in enumerate(widths, 1))
    assert widths == sorted(widths)
    assert len(set(widths)) < 20
    assert SIZES.width_for(4104) == 4104  # a row is never longer


def test_a_row_grows_from_the_next_smaller_capacity():
    capacities = sorted({SIZES.capacity_for(length) for length in range(1, 5000)})
    for smaller, larger in pairwise(capacities):
        assert SIZES.capacity_below(larger) == smaller
    assert SIZES.capacity_below(capacities[-1]) == 4096, "which a row of 4,104 positions may have to be copied from"
    assert SIZES.capacity_below(64) == 64, "the smallest has nothing below it"


@pytest.mark.parametrize(("width", "sizes"), [(16, {4, 16}), (32, {2, 8}), (64, {1, 4}), (1024, {1, 4})])
def test_two_numbers_of_contexts_are_compiled_for_a_width(width, sizes):
    assert {prefill_rows(width, waiting) for waiting in range(1, 200)} == sizes


@pytest.mark.parametrize("width", [16, 64, 96, 1024, 4096])
def test_copies_of_many_rows_are_bounded_by_their_tokens(width):
    sizes = {SIZES.copied_rows(rows, width) for rows in range(1, 129)}
    assert len(sizes) <= 2
    assert all(8 <= rows <= 128 for rows in sizes)
    assert all(rows * width <= 8192 for rows in sizes if rows > 8)


def test_samplers_that_differ_in_their_seed_share_their_programs():
    assert sampler("1", seed=3).programs is sampler("1", seed=4).programs
    assert sampler("1", chunk=3).programs is not sampler("1", chunk=4).programs
