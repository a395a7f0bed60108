"""Exploration as the training loop calls it: whole steps with written completions in place of a sampler."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from explore.steps import (
    CHARACTERS,
    PROBLEMS,
    config_with,
    group_relative,
    rollouts_with,
    run_info,
    scores_with,
)
from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.exploration import Explored, PromptRequest
from extra_jax.explore import PromptPolicy, Transform, bonus, chain, novelty, prefixes, stateless
from extra_jax.explore.build import configured
from extra_jax.explore.encoders import EncoderSettings
from extra_jax.explore.explorer import Explorer
from extra_jax.rollout.types import Rollouts

GROUP, SIZE = 4, 8
NGRAMS = EncoderSettings(name="hashed_ngram", size=64)
SHORT: dict[str, Any] = {"min_tokens": 2, "min_gap": 2, "every": 4, "warmup_steps": 0, "guided_fraction": 0.25}


class InOrder:
    """A loader that goes round the problems."""

    def __init__(self, position: int = 0):
        self.position = position

    def __call__(self, count: int) -> list[Problem]:
        self.position += count
        return [PROBLEMS[f"p{i % len(PROBLEMS)}"] for i in range(self.position - count, self.position)]


def written(requests: Sequence[PromptRequest], step: int, solved: float) -> tuple[Rollouts, np.ndarray]:
    """Some lines for each completion, and which of them are correct."""
    rng = np.random.default_rng(step)
    rows = ["".join(f"{a}+{b}={a + b}\n" for a, b in rng.integers(1, 12, (4, 2))) for _ in range(len(requests) * GROUP)]
    correct = rng.random(len(rows)) < solved
    rollouts = rollouts_with(
        [CHARACTERS.encode(row) for row in rows],
        group=GROUP,
        prefixes=[request.prefix_ids for request in requests for _ in range(GROUP)],
        entropies=rng.uniform(0, 1, (len(rows), 40)),
    )
    return rollouts, correct


class Run:
    """Steps of an explorer; what each of them asked and what came back."""

    def __init__(self, *parts: Transform | PromptPolicy, encoder: EncoderSettings = NGRAMS, **run: Any):
        transforms = [part for part in parts if isinstance(part, Transform)]
        policies = [part for part in parts if isinstance(part, PromptPolicy)]
        info = run_info(encoder=encoder, prompts_per_step=SIZE, group_size=GROUP, max_steps=20, **run)
        self.explorer = Explorer(info, chain(*transforms), policies)
        self.loader, self.step = InOrder(), 0

    def observe(
        self, rollouts: Rollouts, correct: np.ndarray, task: np.ndarray, hidden: Any = None, **scores: Any
    ) -> Explored:
        return self.explorer.advantages(
            self.requests, rollouts, scores_with(correct, **scores), task, hidden, self.step
        )

    def take(self, solved: float = 0.3) -> "Run":
        self.requests = self.explorer.prompts(self.loader, self.step, SIZE)
        self.rollouts, self.correct = written(self.requests, self.step, solved)
        self.plain = group_relative(self.correct.reshape(-1, GROUP).astype(float)).ravel()
        explored = self.observe(self.rollouts, self.correct, self.plain)
        self.advantages, self.columns = explored.advantages, explored.columns
        self.metrics = {name.removeprefix("exploration/"): value for name, value in explored.metrics.items()}
        self.guided = np.array([request.lineage is not None for request in self.requests])
        self.step += 1
        return self


def of_preset(preset: str, **prompts: Any) -> list[Transform | PromptPolicy]:
    return configured(config_with({"preset": preset, "prompts": {"prefixes": SHORT | prompts}}))


def test_nothing_to_do_passes_everything_through_untouched():
    run = Run().take()
    assert [request.problem for request in run.requests] == [PROBLEMS[f"p{i}"] for i in range(SIZE)]
    assert run.requests == [PromptRequest(PROBLEMS[f"p{i}"]) for i in range(SIZE)]
    assert run.advantages.tobytes() == run.plain.tobytes()
    assert run.metrics == {}
    assert run.columns == {"advantage_task": [round(x, 6) for x in run.plain]}


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"alpha": 0.0, "scaling": "raw", "centring": "none"}])
def test_without_a_bonus_advantages_are_those_of_grpo_bit_for_bit(settings):
    run = Run(novelty(**settings))
    for _ in range(7):
        run.take(solved=0.4)
        assert [request.problem.uid for request in run.requests] == [
            f"p{(8 * (run.step - 1) + i) % 40}" for i in range(8)
        ]
        assert run.advantages.tobytes() == run.plain.tobytes()
        assert run.metrics["novelty_mean"] > 0, "what would have been is logged all the same"


def test_novelty_pays_correct_completions_that_differ():
    run, paid = Run(novelty(0.1)), 0
    for _ in range(6):
        run.take(solved=0.6)
        extra = run.advantages - run.plain
        assert (extra[~run.correct] == 0).all()
        solved = run.correct.reshape(-1, GROUP).sum(axis=1)
        assert (extra.reshape(-1, GROUP)[solved <= 1] == 0).all()
        assert [value or 0.0 for value in run.columns["bonus"]] == pytest.approx(extra, abs=1e-6)
        assert run.columns["advantage_task"] == pytest.approx(run.plain, abs=1e-6)
        paid += (extra != 0).sum()
    assert paid > 0


@pytest.mark.parametrize("preset", ["corrected", "release_faithful"])
def test_guided_prompts_come_back_with_the_beginning_of_an_attempt_of_their_own(preset):
    run, seen, texts = Run(*of_preset(preset)), 0, {}
    for _ in range(8):
        run.take(solved=0.2)
        for row in range(SIZE * GROUP):
            request = run.requests[row // GROUP]
            text = CHARACTERS.decode([*request.prefix_ids, *run.rollouts.completion_ids(row)])
            texts[f"{run.step}:{row}"] = request.problem.uid, text  # steps of records count from 1
        for index in np.flatnonzero(run.guided):
            seen += 1
            request, row = run.requests[index], index * GROUP
            prefix = CHARACTERS.decode(request.prefix_ids)
            assert prefix
            assert request.prefix_in_prompt == (preset == "release_faithful")
            uid, parent = texts[run.columns["parent"][row]]
            assert uid == request.problem.uid
            assert parent.startswith(prefix)
            assert run.columns["prefix_ids"][row] == list(request.prefix_ids)
        assert [parent is not None for parent in run.columns["parent"]] == np.repeat(run.guided, GROUP).tolist()
    assert seen >= 8
    assert run.metrics["guided_injected"] == 2


def test_guided_completions_get_no_bonus_but_are_remembered():
    run, seen = Run(novelty(), prefixes(**SHORT)), 0
    for _ in range(6):
        run.take(solved=0.3)
        rows = np.repeat(run.guided, GROUP)
        assert (run.advantages[rows] == run.plain[rows]).all()
        seen += rows.sum()
    assert seen > 0
    history = run.explorer._state[0][0]
    assert sum(history.size(uid) for uid in PROBLEMS) == 6 * SIZE * GROUP


def test_a_completion_that_was_not_graded_makes_nobody_hard_and_pays_nobody():
    run = Run(novelty(), prefixes(**SHORT))
    run.requests = run.explorer.prompts(run.loader, 0, SIZE)
    rollouts, _ = written(run.requests, 0, solved=0.0)
    nothing = np.zeros(len(rollouts))
    explored = run.observe(rollouts, nothing > 0, nothing, valid=nothing > 0)
    assert (explored.advantages == 0).all()
    assert explored.metrics["exploration/hard_prompt_count"] == 0


@pytest.mark.parametrize(
    "settings",
    [{}, {"source": "correct", "failures": True}, {"as_released": True, "max_depth": None, "budget": "full"}],
)
def test_a_run_that_was_saved_and_read_takes_the_identical_next_steps(settings):
    def run_anew() -> Run:
        return Run(novelty(), prefixes(**SHORT | settings))

    run = run_anew()
    for _ in range(7):
        run.take(solved=0.4)
    again = run_anew()
    again.explorer.restore(run.explorer.state())
    again.loader, again.step = InOrder(run.loader.position), run.step
    guided = 0
    for _ in range(3):
        run.take(solved=0.4)
        again.take(solved=0.4)
        assert [(r.problem, r.prefix_ids) for r in again.requests] == [(r.problem, r.prefix_ids) for r in run.requests]
        np.testing.assert_array_equal(again.advantages, run.advantages)
        assert (again.metrics, again.columns) == (run.metrics, run.columns)
        guided += run.guided.sum()
    assert guided > 0


def test_a_run_starts_where_there_is_no_state():
    run = Run(novelty())
    run.explorer.restore(None)
    assert run.take().step == 1


def test_transfer_tells_drawn_prompts_from_those_that_only_waited():
    run, counts = Run(prefixes(**SHORT)), np.zeros(2)
    for _ in range(20):
        run.take(solved=0.1)
        counts += run.metrics["transfer_drawn_count"], run.metrics["transfer_not_drawn_count"]
    assert (counts > 0).all()


def test_pass_rates_of_guided_and_plain_prompts_are_told_apart():
    run, seen = Run(prefixes(**SHORT, source="correct", failures=True)), set()
    for _ in range(20):
        run.take(solved=0.4)
        rate = run.correct.reshape(-1, GROUP).mean(axis=1)
        assert run.metrics["regular_pass_rate"] == pytest.approx(rate[~run.guided].mean())
        for kind in ("hard", "easy"):
            own = [
                r
                for r, request in zip(rate, run.requests, strict=True)
                if request.lineage and request.lineage.kind == kind
            ]
            assert (f"guided_pass_rate_{kind}" in run.metrics) == bool(own)
            if own:
                seen.add(kind)
                assert run.metrics[f"guided_pass_rate_{kind}"] == pytest.approx(np.mean(own))
    assert seen == {"hard", "easy"}


def test_hidden_states_are_asked_for_where_somebody_reads_them():
    rollouts = rollouts_with([CHARACTERS.encode("a</think>bc"), CHARACTERS.encode("abc")])
    reader = stateless(lambda step, values, state: (values, state, {}))._replace(reads=("hidden",))
    assert Run(novelty()).explorer.spans(rollouts) is None, "hashed words need none"
    assert Run(prefixes(**SHORT), encoder=EncoderSettings(name="policy_hidden")).explorer.spans(rollouts) is None
    assert Run(reader).explorer.spans(rollouts).tolist() == [[0, 11], [0, 3]]
    after = EncoderSettings(name="policy_hidden", text_span="after_think")
    assert Run(novelty(), encoder=after).explorer.spans(rollouts).tolist() == [[9, 11], [0, 3]]


def test_novelty_of_hidden_states_is_that_of_the_states_given():
    run = Run(novelty(), encoder=EncoderSettings(name="policy_hidden"))
    run.requests = run.explorer.prompts(run.loader, 0, SIZE)
    rollouts, correct = written(run.requests, 0, solved=1.1)
    hidden = np.tile(np.eye(4, 6, dtype=np.float32), (SIZE, 1))
    explored = run.observe(rollouts, correct, np.zeros(len(rollouts)), hidden)
    assert explored.columns["novelty"] == pytest.approx(np.ones(SIZE * GROUP))


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((SIZE, GROUP), np.nan), "32 that are not finite.*Wrap a bonus"),
        (np.zeros((SIZE, 1)), r"of shape \(8, 1\)"),
    ],
)
def test_advantages_that_nothing_can_be_learned_from_stop_the_run(values, message):
    run = Run(stateless(lambda step, _, state: (values, state, {})))
    with pytest.raises(ExtraError, match=message):
        run.take()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 2.0], "'odd' with 2 entries; a column has one for each of the 32"),
        ("text", "'odd' as 'text'"),
        (None, "'odd' as None"),
    ],
)
def test_a_report_that_is_neither_a_number_nor_a_column_stops_the_run(value, message):
    with pytest.raises(ExtraError, match=message):
        Run(stateless(lambda step, values, state: (values, state, {"odd": value}))).take()


def test_numbers_become_metrics_and_arrays_columns_and_what_is_not_finite_is_left_out():
    column = np.where(np.arange(32).reshape(8, 4) == 3, np.nan, 1.5)
    report = {"one": np.float32(0.5), "none": np.nan, "two": 2, "column": column, "texts": ["a"] * 32}
    run = Run(stateless(lambda step, values, state: (values, state, report))).take()
    assert run.metrics == {"one": 0.5, "two": 2.0}
    assert run.columns["column"] == [1.5, 1.5, 1.5, None] + [1.5] * 28
    assert run.columns["texts"] == ["a"] * 32


def test_a_policy_of_prompts_that_gives_too_few_stops_the_run():
    few = PromptPolicy(lambda run: None, lambda draw, state, step: (draw(step.count - 1), state))
    with pytest.raises(ExtraError, match="the prompt policy gave 7 prompts, 8 are wanted"):
        Run(few).take()


def test_a_bonus_inside_of_a_chain_sees_no_advantages_but_the_step_has_them():
    seen = []

    def look(step, values, state):
        seen.append((np.isnan(values).all(), step.advantages.ravel()))
        return np.zeros(values.shape), state, {}

    run = Run(bonus(stateless(look))).take()
    assert seen[0][0]
    np.testing.assert_array_equal(seen[0][1], run.plain)
    assert run.advantages.tobytes() == run.plain.tobytes()
