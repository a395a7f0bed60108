"""The memory of exploration: bounded, and the same after it was saved and read."""

import io
import json

import numpy as np
import pytest
from extra_jax.explore.injection import Slot
from extra_jax.explore.proposals import Group, Proposal, enqueue, memory_key, visit
from extra_jax.explore.state import GUIDED_MARK, ExplorationState, Guided

from explore.steps import Visit, config_of
from explore.test_injection import PROBLEMS, prefix
from extra_jax.errors import ExtraError


def lived(arm: str, steps: int, state: ExplorationState | None = None, first: int = 0) -> tuple:
    """A state after some steps with everything in it, and what the last step paid."""
    config = config_of({"arm": arm}, num_generations=4)
    state = state or ExplorationState()
    for step in range(first, first + steps):
        rng = np.random.default_rng(step)
        vectors, correct = rng.normal(size=(24, 5)), rng.random(24) < 0.5
        codes = [rng.integers(0, 30, 8) for _ in range(24)]
        made = Visit(config, state, vectors, correct, 4, step=step, codes=codes)
        made.run(np.where(correct, 1.0, 0.0).reshape(6, 4))
        slots = [Slot(PROBLEMS[f"p{i}"], PROBLEMS[f"p{i}"]) for i in range(6)]
        proposals = []
        for i in range(6):
            visit(state.prompt(f"p{i}"), Group(4, int(correct[4 * i : 4 * i + 4].sum()), 0, 0))
            tokens, vector = rng.integers(0, 60, 9).astype(np.int32), rng.normal(size=(3, 5)).astype(np.float32)
            made_of = [
                type(prefix())(tokens[: 3 * j + 3], rng.random(), vector[j], step, i, 1, 0.3 * j, bool(j), False)
                for j in range(3)
            ]
            proposals.append(Proposal(i, made_of))
        enqueue(proposals, slots, state, config.explore.prefix, real_smoothing="embedding", seed=0, step=step)
        state.queue = [*state.queue, Guided("p9", "answer 9", prefix(0), 0.25, step)][-4:]
        state.pending = ["p3", "p7"]
    return state, made


@pytest.mark.parametrize("arm", ["F", "L1", "L2"])
def test_a_state_that_was_saved_and_read_gives_the_same_next_steps(arm):
    state, _ = lived(arm, 3)
    saved = state.dumps()
    again = ExplorationState.loads(saved)
    assert again.dumps() == saved
    (_, expected), (_, found) = lived(arm, 2, state, first=3), lived(arm, 2, again, first=3)
    np.testing.assert_array_equal(found.bonus, expected.bonus)
    np.testing.assert_array_equal(found.measured.nearest, expected.measured.nearest)
    assert again.dumps() == state.dumps()
    assert ExplorationState.loads(ExplorationState().dumps()).dumps() == ExplorationState().dumps()


def test_prefixes_of_one_attempt_are_stored_once():
    state, _ = lived("P1", 1)
    kept = state.prompts["p0"].prefixes
    assert [len(p.tokens) for p in kept] == [3, 6, 9]
    again = ExplorationState.loads(state.dumps()).prompts["p0"].prefixes
    assert again[0].tokens.base is again[2].tokens.base
    assert state.nbytes() == ExplorationState.loads(state.dumps()).nbytes()


def test_memory_is_bounded_by_its_settings():
    state, _ = lived("F", 60)
    after = state.nbytes()
    assert {len(state.prompts[f"p{i}"].correct) for i in range(6)} == {16}
    assert max(len(p.prefixes) for p in state.prompts.values()) <= 128
    lived("F", 30, state, first=60)
    assert state.nbytes() == after, "no growth once the memory is full"


def test_guided_prompts_with_a_memory_of_their_own_are_forgotten_in_the_end():
    config = config_of({"preset": "release_faithful"}).explore.prefix
    state = ExplorationState()
    for i in range(1500):
        entry = Guided("p1", "answer 1", prefix(i + 1), 0.5, 0)
        state.prompt(memory_key(Slot(PROBLEMS["p1"], PROBLEMS["p1"], entry), config))
    state.prompt("p1")
    assert sum(GUIDED_MARK in key for key in state.prompts) <= 1024
    assert "p1" in state.prompts
    one = Slot(PROBLEMS["p1"], PROBLEMS["p1"], Guided("p1", "answer 1", prefix(3), 0.5, 0))
    assert memory_key(one, config_of({"preset": "corrected"}).explore.prefix) == "p1", "corrected: with its root"


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr("extra_jax.explore.state._VERSION", 3)
    saved = ExplorationState().dumps()
    monkeypatch.undo()
    with pytest.raises(ExtraError, match="has version 3, this program reads 1 to 2"):
        ExplorationState.loads(saved)


def test_a_state_of_version_1_is_read_without_the_novelty_of_earlier_visits():
    state, _ = lived("F", 2)
    for prompt in state.prompts.values():
        prompt.novelty = 0.25
    with np.load(io.BytesIO(state.dumps())) as file:
        arrays = dict(file)
    assert ExplorationState.loads(state.dumps()).prompts["p0"].novelty == 0.25
    head = json.loads(arrays["head"].tobytes()) | {"version": 1}
    for numbers in head["numbers"]:
        del numbers["novelty"]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays | {"head": np.frombuffer(json.dumps(head).encode(), np.uint8)})
    old = ExplorationState.loads(buffer.getvalue())
    assert all(prompt.novelty is None for prompt in old.prompts.values())
    for prompt in state.prompts.values():
        prompt.novelty = None
    assert old.dumps() == state.dumps(), "nothing else is lost"


def test_what_is_saved_is_no_pickle():
    head = np.load(__import__("io").BytesIO(lived("F", 1)[0].dumps()), allow_pickle=False)["head"]
    assert json.loads(head.tobytes())["pending"] == ["p3", "p7"]
