"""What a step asks: the right ground truth, no problem lost, prefix and continuation within their room."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explore.steps import config_of
from extra_jax.config import PrefixConfig
from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.explore.injection import Slot, draw, make_requests, next_slots
from extra_jax.explore.prefix import Prefix
from extra_jax.explore.proposals import Group, Proposal, enqueue, is_hard, visit
from extra_jax.explore.state import ExplorationState, Guided, PromptState

PROBLEMS = {f"p{i}": Problem(f"p{i}", f"question {i}", f"answer {i}") for i in range(40)}


def prefix(tokens: int = 4, *, step: int = 0, rollout_id: int = 0, depth: int = 1, score: float = 0.5) -> Prefix:
    return Prefix(np.arange(tokens, dtype=np.int32), score, None, step, rollout_id, depth, 0.5, False, False)


def waiting(uid: str, born: int = 0, **fields: int) -> Guided:
    return Guided(uid, PROBLEMS[uid].answer, prefix(**fields), 0.5, born)


def in_order(size: int) -> Callable[[], list[Problem]]:
    """A loader that goes round the problems."""
    position = 0

    def batch() -> list[Problem]:
        nonlocal position
        position += size
        return [PROBLEMS[f"p{i % 40}"] for i in range(position - size, position)]

    return batch


def slots_of(state: ExplorationState, config: PrefixConfig, next_batch: Callable, *, step: int = 1, guided: int = 2):
    return next_slots(state, PROBLEMS, next_batch, config, size=8, guided=guided, seed=0, step=step)


def test_the_ground_truth_follows_a_guided_row():
    state = ExplorationState(queue=[waiting("p30"), waiting("p31")])
    slots = slots_of(state, PrefixConfig(), in_order(8))
    guided = [slot for slot in slots if slot.guided]
    assert len(guided) == 2
    for slot in guided:
        root = PROBLEMS[slot.guided.uid]
        assert (slot.problem, slot.graded) == (root, root)
        assert slot.ground_truth_matches
    assert state.queue == []


def test_the_replica_grades_guided_rows_against_the_displaced_problem():
    """D1: kept to measure what it does."""
    config = config_of({"arm": "B1", "acknowledge_bugs": True}).explore.prefix
    state = ExplorationState(queue=[waiting("p30"), waiting("p31")])
    slots = slots_of(state, config, in_order(8))
    assert [slot.problem.uid for slot in slots] == [f"p{i}" for i in range(6)] + ["p30", "p31"]
    assert [slot.graded.uid for slot in slots] == [f"p{i}" for i in range(8)]
    assert [slot.ground_truth_matches for slot in slots] == [True] * 6 + [False] * 2


def test_a_ground_truth_that_changed_since_stops_the_run():
    state = ExplorationState(queue=[Guided("p30", "another answer", prefix(), 0.5, 0)])
    with pytest.raises(ExtraError, match=r"'p30' has the answer 'answer 30', its prefix was made for 'another answer'"):
        slots_of(state, PrefixConfig(), in_order(8))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_displaced_prompts_return_so_that_the_order_of_the_data_stays_whole(guided_per_step, seed):
    state, next_batch, asked = ExplorationState(), in_order(8), []
    for step, count in enumerate(guided_per_step, start=1):
        state.queue = [waiting(f"p{30 + i}", born=step - 1) for i in range(count)]
        slots = next_slots(state, PROBLEMS, next_batch, PrefixConfig(), size=8, guided=4, seed=seed, step=step)
        assert len(slots) == 8
        assert sum(slot.guided is not None for slot in slots) == count
        asked += [slot.problem.uid for slot in slots if slot.guided is None]
        assert len(state.pending) < 16
    everything = asked + state.pending
    expected = [f"p{i % 40}" for i in range(len(everything))]
    assert sorted(everything) == sorted(expected), "every problem the loader gave is asked once"


def test_the_release_loses_displaced_prompts():
    config = config_of({"preset": "release_faithful"}).explore.prefix
    state, next_batch = ExplorationState(queue=[waiting("p30"), waiting("p31"), waiting("p32")]), in_order(8)
    slots_of(state, config, next_batch)
    assert state.pending == []
    assert [slot.problem.uid for slot in slots_of(state, config, next_batch, step=2)][:7] == [
        f"p{i}" for i in range(8, 15)
    ]


def test_entries_expire_and_fifo_takes_the_oldest():
    state = ExplorationState(queue=[waiting("p1", 0), waiting("p2", 5), waiting("p3", 7)])
    assert [e.uid for e in draw(state, PrefixConfig(queue_order="fifo", queue_max_age=8), 1, 0, 9)] == ["p2"]
    assert [e.uid for e in state.queue] == ["p3"]
    assert state.prompts["p2"].waiting == "drawn"
    assert state.prompts["p2"].injected == 1


def test_a_random_draw_does_not_depend_on_the_order_of_the_queue():
    entries = [waiting(f"p{i}") for i in range(20)]
    chosen = []
    for order in (entries, entries[::-1]):
        state = ExplorationState(queue=list(order))
        chosen.append({e.uid for e in draw(state, PrefixConfig(), 5, 3, 1)})
    assert chosen[0] == chosen[1]
    counts = np.zeros(20)
    for step in range(300):
        for entry in draw(ExplorationState(queue=list(entries)), PrefixConfig(queue_max_age=None), 5, 3, step):
            counts[int(entry.uid[1:])] += 1
    assert (np.abs(counts - 75) < 5 * np.sqrt(75 * 0.75)).all(), "everybody is drawn equally often"


def test_requests_carry_the_prefix_behind_the_prompt():
    plain, guided = Slot(PROBLEMS["p0"], PROBLEMS["p0"]), Slot(PROBLEMS["p1"], PROBLEMS["p1"], waiting("p1"))
    prompts = {"p0": [5], "p1": [6, 7]}
    same = make_requests([plain, guided], prompts, 4, 8, PrefixConfig())
    assert [(list(r.prompt_ids), r.prefix_ids, r.rollout_id) for r in same] == [
        ([5], (), 32),
        ([6, 7], (0, 1, 2, 3), 36),
    ]
    full = make_requests([plain, guided], prompts, 4, 8, PrefixConfig(budget="full"))
    assert [(list(r.prompt_ids), r.num_samples, r.rollout_id) for r in full] == [
        ([5], 4, 32),
        ([6, 7, 0, 1, 2, 3], 4, 36),
    ]


def proposal(slot: int, *scores: float, step: int = 0) -> Proposal:
    return Proposal(slot, [prefix(i + 1, score=s, rollout_id=slot, step=step) for i, s in enumerate(scores)])


def queued(config: PrefixConfig, proposals: list[Proposal], slots: int, state: ExplorationState | None = None, step=0):
    state = state or ExplorationState()
    all_slots = [Slot(PROBLEMS[f"p{i}"], PROBLEMS[f"p{i}"]) for i in range(slots)]
    return state, enqueue(proposals, all_slots, state, config, real_smoothing="prefix_overlap", seed=0, step=step)


RAW = {"smoothing": "none", "queue_order": "fifo"}


def test_the_chosen_prefix_is_queued_with_its_ground_truth():
    state, _ = queued(PrefixConfig(**RAW), [proposal(0, 0.9, 0.2, 0.5)], 1)
    entry = state.queue[0]
    assert (entry.uid, entry.answer, len(entry.prefix.tokens), entry.smoothed) == ("p0", "answer 0", 2, 0.2)
    assert state.prompts["p0"].waiting == "eligible"


def test_one_entry_a_prompt_or_every_one_of_them():
    for one, expected in ((True, [1]), (False, [0, 1])):
        config = PrefixConfig(one_per_prompt=one, **RAW)
        state, _ = queued(config, [proposal(0, 0.5)], 1)
        queued(config, [proposal(0, 0.1, step=1)], 1, state, step=1)
        assert [entry.born for entry in state.queue] == expected


def test_queue_and_memory_are_bounded():
    config = PrefixConfig(queue_capacity=3, memory_capacity=2, **RAW)
    state, done = queued(config, [proposal(i, 0.5, 0.4, 0.3) for i in range(5)], 5)
    assert [entry.uid for entry in state.queue] == ["p2", "p3", "p4"]
    assert done.evicted == 2
    assert all(len(state.prompts[f"p{i}"].prefixes) == 2 for i in range(5))
    assert [len(e.prefix.tokens) for e in state.queue] == [3, 3, 3], "chosen among those remembered"


def test_old_prefixes_are_forgotten():
    config = PrefixConfig(memory_max_age=5, **RAW)
    state, _ = queued(config, [proposal(0, 0.5)], 1)
    queued(config, [proposal(1, 0.5, step=4)], 2, state, step=4)
    assert len(state.prompts["p0"].prefixes) == 1
    queued(config, [proposal(1, 0.5, step=5)], 2, state, step=5)
    assert state.prompts["p0"].prefixes == []


def test_controls_of_the_choice():
    five = [proposal(0, 0.9, 0.2, 0.5, 0.4, 0.3), proposal(1, 0.6)]
    assert len(queued(PrefixConfig(control="fresh"), five, 2)[0].queue[0].prefix.tokens) == 0
    wrong = queued(PrefixConfig(control="wrong_problem", queue_order="fifo"), five, 2)[0].queue
    assert [(entry.uid, entry.prefix.rollout_id) for entry in wrong] == [("p0", 1), ("p1", 0)]
    assert queued(PrefixConfig(control="wrong_problem"), five[:1], 1)[0].queue == [], "nobody else to take one from"
    high = queued(PrefixConfig(direction="high", smoothing="none"), five[:1], 1)[0].queue[0]
    assert high.prefix.score == 0.9
    drawn = set()
    for step in range(60):
        state, done = queued(
            PrefixConfig(control="random", smoothing="none"), [proposal(0, 0.9, 0.2, 0.5)], 1, step=step
        )
        drawn.add(state.queue[0].prefix.score)
        assert done.real[0].scores[done.real[0].index] == done.real[0].scores.min(), "the real choice is kept beside it"
    assert drawn == {0.9, 0.2, 0.5}


def test_an_arm_without_injection_still_shows_the_real_choice():
    """Also with an encoder that has no vectors of prefixes."""
    config = config_of({"arm": "N1", "encoder": {"name": "policy_hidden"}}).explore.prefix
    state, done = queued(config, [proposal(0, 0.9, 0.2)], 1)
    assert done.used[0] is done.pools[0][done.real[0].index]
    assert state.queue == done.queued == []


def test_position_matched_draws_from_where_the_real_choice_lies():
    state = ExplorationState()
    state.positions[16] = 1000.0  # the real choice has been at 0.8 to 0.85 of its attempt
    candidates = [
        Prefix(np.zeros(i + 1, np.int32), 0.1 * i, None, 0, 0, 1, fraction, False, False)
        for i, fraction in enumerate((0.1, 0.5, 0.82))
    ]
    _, done = queued(PrefixConfig(control="position_matched", smoothing="none"), [Proposal(0, candidates)], 1, state)
    assert done.used[0] is candidates[2]


def test_depth_is_limited():
    deep = Proposal(0, [prefix(depth=2)])
    assert queued(PrefixConfig(**RAW), [deep], 1)[0].queue == []
    assert len(queued(PrefixConfig(max_depth=None, **RAW), [deep], 1)[0].queue) == 1


@pytest.mark.parametrize(
    ("settings", "correct", "unknown", "truncated", "expected"),
    [
        ({}, 1, 0, 0, True),
        ({}, 2, 0, 0, False),
        ({"hard_max_correct": 0}, 0, 0, 0, True),
        ({"hard_max_correct": 0}, 1, 0, 0, False),
        ({}, 1, 1, 0, False),  # what could not be graded may have been correct
        ({}, 0, 0, 4, False),  # half of the group ran out of room
        ({}, 0, 0, 3, True),
        ({"max_truncated": None}, 0, 0, 8, True),
    ],
)
def test_hard_by_count(settings, correct, unknown, truncated, expected):
    assert is_hard(PromptState(), Group(8, correct, unknown, truncated), PrefixConfig(**settings)) is expected


def test_hard_by_streak_and_by_posterior():
    streak, posterior = PrefixConfig(hard_rule="streak"), PrefixConfig(hard_rule="posterior", hard_pass_rate=0.05)
    prompt, failed, solved = PromptState(), Group(8, 0, 0, 0), Group(8, 2, 0, 0)
    found = []
    for group in (failed, failed, solved, failed):
        visit(prompt, group)
        found.append((is_hard(prompt, group, streak), is_hard(prompt, group, posterior)))
    # posterior means: .5/9, .5/15.4, ... and 2 of 8 lifts it far above .05
    assert found == [(False, False), (True, True), (False, False), (False, False)]
    assert (prompt.visits, prompt.streak) == (4, 1)
