"""Dynamic sampling on outcomes that we make up: which problems are generated, and which groups are learned from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax import dynamic_sampling
from extra_jax.config import GRPOConfig
from extra_jax.data.problem import Problem
from extra_jax.dynamic_sampling import GroupPool, with_dynamic_sampling
from extra_jax.exploration import PromptRequest
from extra_jax.parallel.processes import share
from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Grade, Verdict
from extra_jax.rollout.types import Rollouts, StopReason
from extra_jax.stages import Sampled

GROUP = 3
C, W, E = Verdict.CORRECT, Verdict.WRONG, Verdict.ERROR
MIXED = ((C, W, W), (C, C, W), (W, C, Verdict.NO_ANSWER), (C, E, W))
ONE_SIDED = ((C, C, C), (W, W, W), (W, Verdict.NO_ANSWER, W), (C, C, E), (W, E, E), (E, E, E))
OUTCOMES = st.lists(st.sampled_from(MIXED + ONE_SIDED), min_size=12, max_size=12)


def graded(outcomes: list[tuple[Verdict, ...]], numbers: range, whole: range | None = None) -> Sampled:
    """Completions of problems ``numbers`` of a step, every entry of which names its own."""
    ids = np.array([number * GROUP + i for number in numbers for i in range(GROUP)], np.int64)
    verdicts = [verdict for number in numbers for verdict in outcomes[number]]
    length = len(ids)
    return Sampled(
        [PromptRequest(Problem(f"p{number}", "?", "0")) for number in whole or numbers],
        [PromptRequest(Problem(f"p{number}", "?", "0")) for number in numbers],
        Rollouts(
            ids,
            np.repeat(np.arange(len(numbers), dtype=np.int32), GROUP),
            [np.array([uid // GROUP]) for uid in ids],
            ids[:, None].astype(np.int32),
            np.ones(length, np.int32),
            -ids[:, None].astype(np.float32),
            ids[:, None].astype(np.float32),
            [StopReason.STOP_TOKEN] * length,
            [np.array([uid + 7]) for uid in ids],
            ids[:, None].astype(np.float32),
            ids[:, None].astype(np.float32),
        ),
        [str(uid) for uid in ids],
        Scores(
            ids.astype(float),
            np.array([verdict in (C, W, Verdict.NO_ANSWER) for verdict in verdicts], bool),
            np.array([verdict is C for verdict in verdicts], bool),
            [Grade(verdict, None, "test") for verdict in verdicts],
            {"half": ids / 2},
        ),
    )


def run(outcomes, wanted: int, budget: int) -> tuple[Sampled, GroupPool, list[int]]:
    pool, rounds = GroupPool(wanted, budget, GROUP), []
    while count := pool.more():
        pool.add(graded(outcomes, range(pool.generated, pool.generated + count)), count)
        rounds.append(count)
    return pool.chosen(), pool, rounds


@given(outcomes=OUTCOMES, budget=st.sampled_from([4, 8, 12]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_mixed_groups_come_first_and_refilling_ends_when_there_are_enough_or_the_budget_is_spent(outcomes, budget):
    chosen, pool, rounds = run(outcomes, 4, budget)
    assert rounds[0] == 4
    assert all(count > 0 for count in rounds)
    mixed = [number for number in range(pool.generated) if outcomes[number] in MIXED]
    assert pool.generated == sum(rounds) <= budget
    assert len(mixed) >= 4 or pool.generated == budget
    others = [number for number in range(pool.generated) if number not in mixed]
    expected = sorted((mixed + others)[:4])
    assert chosen.rollouts.rollout_ids.tolist() == [number * GROUP + i for number in expected for i in range(GROUP)]
    rollouts = chosen.rollouts
    assert [int(prompt.problem.uid[1:]) for prompt in chosen.prompts] == expected
    assert chosen.requests == chosen.prompts
    for row, uid in enumerate(rollouts.rollout_ids):
        assert chosen.prompts[rollouts.prompt_index[row]].problem.uid == f"p{uid // GROUP}"
        assert (rollouts.tokens[row, 0], rollouts.entropies[row, 0], chosen.texts[row]) == (uid, uid, str(uid))
        assert chosen.scores.grades[row].verdict is outcomes[uid // GROUP][uid % GROUP]
        assert (chosen.scores.rewards[row], chosen.scores.parts["half"][row]) == (uid, uid / 2)


def test_a_further_round_asks_for_as_many_as_the_share_of_mixed_groups_says():
    outcomes = [MIXED[0], *[ONE_SIDED[0]] * 3, *[MIXED[0]] * 20]
    _, pool, rounds = run(outcomes, 4, 16)
    assert rounds == [4, 12]
    assert pool.metrics() == {
        "dynamic_sampling/generated_prompts": 16,
        "dynamic_sampling/frac_mixed": 13 / 16,
        "num_tokens": 16 * GROUP * 2,
    }


def test_without_a_budget_nothing_is_replaced_and_nothing_is_reported():
    chosen, pool, rounds = run([ONE_SIDED[0]] * 12, 4, 4)
    assert rounds == [4]
    assert len(chosen.rollouts) == 4 * GROUP
    assert pool.metrics() == {}


def test_the_wrapper_draws_until_there_are_enough_and_numbers_its_prompts_through_the_step():
    outcomes = [MIXED[0], *[ONE_SIDED[0]] * 3, *[MIXED[0]] * 20]
    drawn = []

    def draw(weights: str, step: int, first: int, count: int) -> Sampled:
        drawn.append((weights, step, first, count))
        return graded(outcomes, range(first, first + count))

    config = GRPOConfig(prompts_per_step=4, num_generations=GROUP, max_num_gen_batches=4)
    sampled = with_dynamic_sampling(draw, config)("weights", 7)
    assert drawn == [("weights", 7, 0, 4), ("weights", 7, 4, 12)]
    assert sampled.metrics["dynamic_sampling/generated_prompts"] == 16
    assert [prompt.problem.uid for prompt in sampled.prompts] == ["p0", "p4", "p5", "p6"]


@pytest.mark.parametrize("processes", [2, 3])
@given(outcomes=OUTCOMES)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_several_processes_choose_the_groups_that_one_would(processes, outcomes):
    """The processes are played one after the other; what they gather is what all of them say."""
    alone, _, rounds = run(outcomes, 4, 12)
    pools = [GroupPool(4, 12, GROUP) for _ in range(processes)]
    with pytest.MonkeyPatch.context() as patch:
        for count in rounds:
            assert {pool.more() for pool in pools} == {count}
            first = pools[0].generated
            whole = range(first, first + count)
            parts = [graded(outcomes, whole[s.start : s.stop], whole) for s in shares(count, processes)]
            groups: list[np.ndarray] = []

            def gather(rows: np.ndarray, groups: list[np.ndarray] = groups) -> np.ndarray:
                groups.append(rows)
                return rows[:0]

            patch.setattr(dynamic_sampling, "allgather_rows", gather)
            for of, part in zip(pools, parts, strict=True):
                of.add(part, count)
            for of in pools:
                of._groups = np.concatenate([of._groups, *groups])
        assert {pool.more() for pool in pools} == {0}
    ids = np.concatenate([pool.chosen().rollouts.rollout_ids for pool in pools])
    assert sorted(ids.tolist()) == alone.rollouts.rollout_ids.tolist()


def shares(count: int, processes: int) -> list[range]:
    return [share(count, index, processes) for index in range(processes)]
