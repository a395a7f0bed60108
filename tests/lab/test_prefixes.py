"""Choosers, the clamp, the replica of the release's defect, and prefixes that are only reported."""

import dataclasses

import numpy as np
import pytest
from explore.steps import Lived, asked, guided, prefix, run_info, step_with, waiting

from benchmarks.exploration.lab import choosers
from benchmarks.exploration.lab.replica import graded_against_displaced, proposals
from extra_jax.errors import ExtraError
from extra_jax.explore import PromptStep
from extra_jax.explore.attempts import Choosing

POOL = [dataclasses.replace(prefix(rollout_id=i), fraction=f) for i, f in enumerate([0.1, 0.45, 0.9])]


def among(seed: int = 0, **changes: object) -> Choosing:
    positions, rng = np.zeros(20), np.random.default_rng(seed)
    base = Choosing("p0", POOL, [prefix(rollout_id=9)], np.array([0.2, 0.3, 0.1]), 0.5, positions, False, rng, 2)
    return base._replace(**changes)


def test_each_chooser_takes_what_it_says():
    assert choosers.highest_entropy(among()) == (POOL[1], 0.3)
    assert choosers.half(among()) == (POOL[1], 0.3)
    drawn = [choosers.at_random(among(seed))[0].rollout_id for seed in range(300)]
    assert np.bincount(drawn) == pytest.approx([100, 100, 100], abs=30)
    empty, score = choosers.fresh(among())
    assert (len(empty.tokens), empty.rollout_id, score) == (0, 2, 0.1)
    assert choosers.wrong_problem(among())[0].rollout_id == 9
    assert choosers.wrong_problem(among(others=[]))[0] is None


def test_position_matched_draws_from_where_the_lowest_scores_were():
    late = np.zeros(20)
    late[18] = 7
    assert {choosers.position_matched(among(seed, positions=late))[0].rollout_id for seed in range(20)} == {2}
    assert {choosers.position_matched(among(seed))[0].rollout_id for seed in range(20)} == {0, 1, 2}


def test_behind_a_prefix_no_advantage_is_negative():
    step = step_with([[True, False], [True, False]], requests=[*asked("p0"), guided(waiting("p1"))])
    clamped = Lived(choosers.no_negative_advantage())(step, np.array([[1.0, -1.0], [2.0, -2.0]]))
    assert clamped.tolist() == [[1.0, -1.0], [2.0, 0.0]]


SETTINGS = {"guided_fraction": 0.5, "warmup_steps": 0, "min_tokens": 0, "every": 2, "smoothing": "none", "stop_at": ()}
RELEASED = {**SETTINGS, "as_released": True, "max_truncated": None, "max_depth": None, "queue_max_age": None}
LINES = "ab\n" + "x" * 40 + "\ncd\n" + "y" * 40


def test_guided_prompts_are_graded_with_the_answer_of_the_displaced_one_and_nothing_else_sees_it():
    run, policy = run_info(group_size=2, prompts_per_step=4), graded_against_displaced(**RELEASED)
    state, names = policy.init(run), iter(f"p{i}" for i in range(40))

    def draw(count: int) -> list:
        return asked(*(next(names) for _ in range(count)))

    depths = []
    for index in range(3):
        requests, state = policy.prompts(draw, state, PromptStep(index, 4, run))
        for row, request in enumerate(requests):
            answer = request.problem.answer.removeprefix("answer ")
            assert answer == str(4 * index + row), "the row's own answer, whoever is asked"
            if request.lineage is not None:
                assert request.problem.uid != f"p{answer}"
                assert request.problem.prompt == f"question {request.problem.uid[1:]}"
        step = step_with(np.zeros((4, 2)), texts=[LINES] * 8, requests=requests, run=run, index=index)
        state, report = policy.observe(step, state)
        depths.append([r.lineage.prefix.depth for r in requests if r.lineage is not None])
        assert report["gt_check"] == (1.0 if index == 0 else 0.0)
        assert len(report["prefix_fraction"]) == 8, "the column of the records, beside the metric of what is queued"
        assert report["prefix_fraction_used"] == pytest.approx(np.mean([e.prefix.fraction for e in state.queue[-4:]]))
        assert all(entry.answer == run.problems[entry.uid].answer for entry in state.queue)
    assert depths[0] == []
    assert len(depths[1]) == len(depths[2]) == 2


def test_proposals_are_reported_and_never_come_back():
    run, policy = run_info(group_size=2, prompts_per_step=4), proposals(**SETTINGS)
    state = policy.init(run)
    for index in range(3):
        requests, state = policy.prompts(
            lambda n: asked(*(f"p{i}" for i in range(n))), state, PromptStep(index, 4, run)
        )
        assert requests == asked("p0", "p1", "p2", "p3")
        state, report = policy.observe(step_with(np.zeros((4, 2)), texts=[LINES] * 8, run=run, index=index), state)
        assert report["queue_added"] == 4
        assert not state.queue


def test_a_typo_in_their_settings_is_named():
    with pytest.raises(ExtraError, match="did you mean 'guided_fraction'"):
        proposals(guided_fractoin=0.5)
