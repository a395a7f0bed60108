"""The loader: one global sequence for any number of processes, exact to resume."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.data.loader import ProblemLoader
from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError


def problems(count, prefix="p"):
    return [Problem(f"{prefix}{i}", f"prompt {i}", str(i)) for i in range(count)]


def uids(loader, steps):
    return [[problem.uid for problem in loader.next()] for _ in range(steps)]


# Grain's permutation of a few problems takes milliseconds a problem (it walks a domain of 2**16), so mostly more.
sizes = st.sampled_from([1, 60, 97, 128])
batches = st.integers(1, 12)
seeds = st.integers(-3, 2**40)


@given(sizes, batches, seeds)
@settings(max_examples=15, deadline=None)
def test_every_problem_comes_once_per_epoch(size, batch, seed):
    epochs = 3
    loader = ProblemLoader(problems(size), batch, seed)
    sequence = [uid for step in uids(loader, -(-epochs * size // batch)) for uid in step]
    everything = {problem.uid for problem in problems(size)}
    for epoch in range(epochs):
        assert Counter(sequence[epoch * size : (epoch + 1) * size]) == Counter(everything)


def test_epochs_are_shuffled_differently():
    sequence = uids(ProblemLoader(problems(50), 50, seed=0), 5)
    assert len({tuple(epoch) for epoch in sequence}) == 5
    assert [problem.uid for problem in problems(50)] not in sequence


def test_neighbouring_seeds_share_no_epoch():
    epochs = [tuple(epoch) for seed in range(4) for epoch in uids(ProblemLoader(problems(30), 30, seed), 4)]
    assert len(set(epochs)) == 16


def test_the_last_batch_of_an_epoch_is_filled_from_the_next():
    steps = uids(ProblemLoader(problems(5), 3, seed=1), 5)
    assert [len(step) for step in steps] == [3] * 5
    flat = [uid for step in steps for uid in step]
    assert set(flat[:5]) == set(flat[5:10]) == set(flat[10:]) == {f"p{i}" for i in range(5)}


@pytest.mark.parametrize(("size", "batch"), [(100, 4), (70, 8), (160, 8), (3, 4)])
def test_the_global_sequence_does_not_depend_on_the_process_count(size, batch):
    steps = 20 if size > 10 else 4
    reference = uids(ProblemLoader(problems(size), batch, seed=5), steps)
    for count in (2, 4):
        shares = [uids(ProblemLoader(problems(size), batch, 5, index, count), steps) for index in range(count)]
        assert [[uid for part in slices for uid in part] for slices in zip(*shares, strict=True)] == reference


@given(sizes, batches, seeds, st.integers(0, 30), st.integers(0, 9))
@settings(max_examples=12, deadline=None)
def test_state_and_restore_are_exact_at_any_point(size, batch, seed, before, astray):
    loader = ProblemLoader(problems(size), batch, seed)
    uids(loader, before)
    state = json.loads(json.dumps(loader.state()))
    expected = uids(loader, 9)
    other = ProblemLoader(problems(size), batch, seed)
    uids(other, astray)
    other.restore(state)
    assert other.state() == state
    assert uids(other, 9) == expected


def test_a_state_can_be_restored_by_another_process_count():
    whole = ProblemLoader(problems(10), 4, seed=2)
    uids(whole, 7)
    halves = [ProblemLoader(problems(10), 4, 2, index, 2) for index in range(2)]
    for half in halves:
        half.restore(whole.state())
    assert [a + b for a, b in zip(uids(halves[0], 5), uids(halves[1], 5), strict=True)] == uids(whole, 5)


@pytest.mark.parametrize(
    ("other", "named", "unnamed"),
    [
        (ProblemLoader(problems(9), 4, seed=0), ["number of problems (9", "uids"], ["seed"]),
        (ProblemLoader(problems(8, "q"), 4, seed=0), ["uids of the problems"], ["number", "seed"]),
        (ProblemLoader(problems(8)[::-1], 4, seed=0), ["uids of the problems or their order"], ["number"]),
        (ProblemLoader([*problems(7), Problem("p7", "words", "7")], 4, seed=0), ["wording or answers"], ["number"]),
        (ProblemLoader([*problems(7), Problem("p7", "prompt 7", "8")], 4, seed=0), ["wording or answers"], ["number"]),
        (ProblemLoader(problems(8), 4, seed=1), ["seed (1 in the state, 0 here)"], ["uids", "number"]),
        (ProblemLoader(problems(8), 2, seed=0), ["prompts_per_step (2 in the state, 4 here)"], ["uids", "seed"]),
    ],
)
def test_a_state_of_another_data_set_is_refused_and_the_difference_named(other, named, unnamed):
    loader = ProblemLoader(problems(8), 4, seed=0)
    with pytest.raises(ExtraError, match="made by another run") as caught:
        loader.restore(other.state())
    assert all(part in str(caught.value) for part in named)
    assert not any(part in str(caught.value) for part in unnamed)
    assert loader.epoch == 0


def test_something_else_than_a_state_is_refused():
    with pytest.raises(ExtraError, match="no data state"):
        ProblemLoader(problems(2), 1, seed=0).restore({"step": 3})


def test_epoch_counts_passes_over_the_data():
    loader = ProblemLoader(problems(8), 2, 0, process_index=1, process_count=2)
    assert loader.epoch == 0.0
    uids(loader, 6)
    assert loader.epoch == 1.5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_batch_of_another_size_takes_as_many_of_the_sequence_and_is_shared_out_whole(count):
    sequence = [uid for step in uids(ProblemLoader(problems(7), 1, seed=3), 40) for uid in step]
    loaders = [ProblemLoader(problems(7), 6, 3, index, count) for index in range(count)]
    at = 0
    for size in (6, 1, 5, 2, 6, 13):
        shares = [[problem.uid for problem in loader.next(size)] for loader in loaders]
        assert [uid for part in shares for uid in part] == sequence[at : at + size]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        at += size
    assert len({json.dumps(loader.state()) for loader in loaders}) == 1
    again = ProblemLoader(problems(7), 6, 3)
    again.restore(loaders[0].state())
    assert [problem.uid for problem in again.next()] == sequence[at : at + 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 1, 0), "no problems"),
        ((problems(2) + problems(1), 1, 0), "two problems have the uid 'p0'"),
        ((problems(4), 0, 0), "prompts_per_step is 0"),
        ((problems(4), 6, 0, 0, 4), "which 4 processes cannot share evenly. Use a multiple of 4"),
        ((problems(4), 4, 0, 2, 2), "process_index is 2"),
    ],
)
def test_impossible_loaders_are_refused(arguments, message):
    with pytest.raises(ExtraError, match=message):
        ProblemLoader(*arguments)
