"""The memory of exploration: a few arrays, bounded, and the same after it was saved and read."""

from typing import Any

import numpy as np
import pytest

from explore.steps import CHARACTERS, Lived, asked, run_info, step_with
from extra_jax.exploration import PromptRequest
from extra_jax.explore import PromptStep, distance, novelty
from extra_jax.explore.encoders import EncoderSettings
from extra_jax.explore.history import History
from extra_jax.explore.packing import pack_texts, split, unpack_texts
from extra_jax.explore.prefix_settings import PrefixSettings
from extra_jax.explore.prefix_state import Guided, PrefixState
from extra_jax.explore.prefixes import next_prompts, observe

RUN = run_info(encoder=EncoderSettings(name="hashed_ngram", size=8))
RULES = PrefixSettings(min_tokens=2, min_gap=2, warmup_steps=0, guided_fraction=0.25, failures=True, max_depth=None)


def step_after(state: PrefixState, index: int, rules: PrefixSettings) -> list[Any]:
    """Takes one step and says everything that came of it; completions depend on the step alone."""
    rng = np.random.default_rng(index)

    def draw(count: int) -> list[PromptRequest]:
        return asked(*(f"p{i}" for i in rng.integers(0, 12, count)))

    requests, state = next_prompts(draw, state, PromptStep(index, 8, RUN), rules)
    texts = ["".join(chr(c) for c in rng.choice([10, 97, 98, 99], 20)) for _ in range(32)]
    correct = rng.random((8, 4)) < rng.choice([0.0, 0.5, 1.0], (8, 1))
    entropies = rng.random((32, 20))
    step = step_with(correct, texts=texts, run=RUN, index=index, requests=requests, entropies=entropies)
    state, report = observe(step, state, rules)
    queue = [(e.uid, e.prefix.tokens.tolist(), e.score, e.born, e.kind) for e in state.queue]
    return [[(r.problem.uid, r.prefix_ids) for r in requests], queue, {k: v for k, v in report.items() if v == v}]


def lived(steps: int, rules: PrefixSettings = RULES) -> PrefixState:
    state = PrefixState()
    for index in range(steps):
        step_after(state, index, rules)
    return state


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name, strict=True)


@pytest.mark.parametrize(
    "rules", [RULES, PrefixSettings(**dict(RULES) | {"as_released": True, "choose": "lowest_entropy"})]
)
def test_prefixes_that_were_saved_and_read_give_the_same_next_steps(rules):
    state = lived(6, rules)
    saved = state.save()
    again = PrefixState.load(saved)
    assert_same(again.save(), saved)
    assert state.queue, "there is something to lose"
    assert rules.as_released or state.pending
    for index in range(6, 12):
        assert step_after(again, index, rules) == step_after(state, index, rules)
    assert_same(again.save(), state.save())


def test_saved_is_no_part_of_what_goes_on():
    state = lived(4)
    saved = state.save()
    before = {name: array.copy() for name, array in saved.items()}
    for index in range(4, 8):
        step_after(state, index, RULES)
    assert_same(saved, before)


@pytest.mark.parametrize("steps", [0, 5])
def test_a_state_is_saved_as_a_few_arrays_of_numbers(steps):
    for tree in (lived(steps).save(), written(steps).save()):
        assert len(tree) <= 9
        for array in tree.values():
            assert isinstance(array, np.ndarray)
            assert array.dtype.kind in "fiub"


def test_prefixes_of_one_attempt_are_stored_once():
    state = lived(6)
    again = PrefixState.load(state.save())
    prefixes = [p for record in again.records.values() for p in record.prefixes]
    attempts = {(p.step, p.rollout_id) for p in prefixes} | {(e.prefix.step, e.prefix.rollout_id) for e in again.queue}
    assert len(state.save()["sizes"]) == len(attempts) < len(prefixes)
    several = [p for p in prefixes if (p.step, p.rollout_id) == (prefixes[0].step, prefixes[0].rollout_id)]
    assert len({id(p.tokens.base) for p in several}) == 1


def test_a_queued_prefix_without_tokens_and_one_of_another_problem_come_back():
    state = lived(3)
    taken = state.queue[0].prefix
    empty = type(taken)(**vars(taken) | {"tokens": taken.tokens[:0]})
    state.queue += [Guided("p9", "answer 9", empty, float("nan"), 2), Guided("p8", "answer 8", taken, 0.25, 2, "easy")]
    again = PrefixState.load(state.save()).queue
    assert (again[-2].uid, again[-2].prefix.tokens.tolist(), np.isnan(again[-2].score)) == ("p9", [], True)
    assert again[-1].prefix.tokens.tolist() == taken.tokens.tolist()
    assert again[-1].kind == "easy"


def test_an_empty_state_is_read_as_it_was():
    assert_same(PrefixState.load(PrefixState().save()).save(), PrefixState().save())
    assert History.load(History().save()).problems == {}


def visit(far: Lived, index: int) -> np.ndarray:
    rng = np.random.default_rng(index)
    uids = [f"p{i}" for i in rng.integers(0, 6, 6)]
    step = step_with(rng.random((6, 4)) < 0.6, vectors=rng.normal(size=(24, 5)), requests=asked(*uids), index=index)
    return far(step, step.advantages)


def written(steps: int) -> History:
    far = Lived(distance())
    for index in range(steps):
        visit(far, index)
    return far.state


def test_novelty_that_was_saved_and_read_pays_the_same_next_steps():
    """The whole chain: remembered completions and running moments."""
    far, again = Lived(novelty()), Lived(novelty())
    for index in range(4):
        visit(far, index)
    again.state = again.transform.load(far.transform.save(far.state), run_info())
    for index in range(4, 8):
        np.testing.assert_array_equal(visit(again, index), visit(far, index))
        assert again.report["nearest"] == far.report["nearest"]


def test_memory_is_bounded_by_its_settings():
    history = written(80)
    size = history.nbytes()
    assert {history.size(f"p{i}") for i in range(6)} == {16}
    assert size == 6 * 16 * 5 * 4
    rules = PrefixSettings(**dict(RULES) | {"memory_capacity": 10, "queue_capacity": 3, "max_depth": 1})
    state = lived(60, rules)
    assert len(state.queue) <= 3
    assert max(len(record.prefixes) for record in state.records.values()) == 10


def test_a_step_leaves_the_history_before_it_as_it_was():
    far = Lived(distance())
    visit(far, 0)
    before, sizes = far.state, {uid: far.state.size(uid) for uid in far.state.problems}
    visit(far, 1)
    assert far.state is not before
    assert {uid: before.size(uid) for uid in before.problems} == sizes


def test_packed_texts_and_parts_are_what_they_were():
    texts = ["a", "", "ä\x00", "p1"]
    assert unpack_texts(pack_texts(texts)) == texts
    assert [part.tolist() for part in split(np.arange(5), [2, 0, 3])] == [[0, 1], [], [2, 3, 4]]
    assert CHARACTERS.decode(split([97, 98], [2])[0]) == "ab"
