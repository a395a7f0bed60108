"""Exploration as the training loop calls it, with written completions in place of a sampler."""

import re

import numpy as np
import pytest
from extra_jax.config.explore_presets import ARMS
from extra_jax.explore.injection import Slot, responses
from extra_jax.explore.state import ExplorationState

from explore.steps import config_of
from extra_jax.config import Config
from extra_jax.data.problem import Problem
from extra_jax.data.tasks import countdown
from extra_jax.data.tokenizer import load_tokenizer
from extra_jax.explore.explorer import Explorer
from extra_jax.learn.batch import pack_rows
from extra_jax.learn.estimators import grpo
from extra_jax.learn.grpo import grpo_examples
from extra_jax.reward.countdown import CountdownGrader
from extra_jax.reward.verdict import Grade, Verdict
from extra_jax.rollout.types import Rollouts, StopReason

TOKENIZER = load_tokenizer("tiny")
PROBLEMS = countdown.generate(40, seed=0, split="train", numbers=(3, 4))
PROMPTS = {p.uid: TOKENIZER.encode_prompt(p.prompt) for p in PROBLEMS}
GROUP, SIZE = 4, 8
SMALL = {
    "encoder": {"name": "hashed_ngram"},
    "prefix": {"budget": "full", "min_tokens": 2, "min_gap": 2, "every": 4, "warmup_steps": 0, "slots_fraction": 0.25},
}


def settings_of(explore: dict) -> Config:
    merged = {
        key: {**SMALL.get(key, {}), **value} if isinstance(value, dict) else value for key, value in explore.items()
    }
    config = config_of(SMALL | merged, prompts_per_step=SIZE, num_generations=GROUP, max_steps=20)
    rollout = config.rollout.model_copy(update={"max_prompt_length": 64, "max_completion_length": 48})
    return config.model_copy(update={"rollout": rollout})


class InOrder:
    """A loader that goes round the problems."""

    def __init__(self, position: int = 0):
        self.position = position

    def __call__(self) -> list[Problem]:
        self.position += SIZE
        return [PROBLEMS[i % len(PROBLEMS)] for i in range(self.position - SIZE, self.position)]


def turned(solution: str, rng: np.random.Generator) -> str:
    """The same solution with the operands of some sums and products the other way round."""
    lines = [re.sub(r"(\d+)([+*])(\d+)=", r"\3\2\1=", x) if rng.random() < 0.5 else x for x in solution.splitlines()]
    return "\n".join(lines) + "\n"


def written(slots: list[Slot], step: int, solved: float = 0.3) -> Rollouts:
    """Reference solutions with a chance, else wrong lines; entropies are random."""
    rng = np.random.default_rng(step)
    rows = []
    for slot in slots:
        for _ in range(GROUP):
            lines = "".join(f"{a}+{b}={a + b}\n" for a, b in rng.integers(1, 12, (rng.integers(1, 4), 2)))
            rows.append(TOKENIZER.encode_target(turned(slot.problem.solution, rng) if rng.random() < solved else lines))
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), 48), np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    return Rollouts(
        rollout_ids=np.arange(len(rows)),
        prompt_index=np.repeat(np.arange(len(slots), dtype=np.int32), GROUP),
        prompt_ids=[np.array(PROMPTS[slots[i // GROUP].problem.uid]) for i in range(len(rows))],
        tokens=tokens,
        lengths=lengths,
        logprobs=-rng.exponential(0.3, tokens.shape).astype(np.float32),
        entropies=rng.uniform(0, 1, tokens.shape).astype(np.float32),
        stop_reasons=[StopReason.STOP_TOKEN] * len(rows),
        prefix_ids=[np.array(slots[i // GROUP].prefix_ids, np.int32) for i in range(len(rows))],
        full_logprobs=np.zeros(tokens.shape, np.float32),
        filter_logprob_mass=np.zeros(tokens.shape, np.float32),
    )


class Run:
    """Steps of an explorer; what each of them asked, was told and answered."""

    def __init__(self, explore: dict, state: bytes | None = None):
        self.config = settings_of(explore)
        self.explorer = Explorer(self.config, PROBLEMS, PROMPTS, TOKENIZER)
        if state is not None:
            self.explorer.state = ExplorationState.loads(state)
        self.next_batch, self.step = InOrder(), 0

    def task(self, rewards: np.ndarray) -> np.ndarray:
        groups = rewards.reshape(-1, GROUP)
        epsilon = self.config.explore.std_epsilon
        return grpo(groups, np.ones(groups.shape, bool), "group", epsilon).ravel()

    def take(self, solved: float = 0.3) -> "Run":
        explorer = self.explorer
        self.slots = explorer.inject(self.next_batch, self.step)
        self.rollouts = written(self.slots, self.step, solved)
        self.texts = responses(TOKENIZER, self.rollouts, self.slots)
        self.grades = CountdownGrader().grade([self.slots[i].graded for i in self.rollouts.prompt_index], self.texts)
        self.rewards = np.array([float(grade.verdict is Verdict.CORRECT) for grade in self.grades])
        valid = np.ones(len(self.rewards), bool)
        self.plain = self.task(self.rewards)
        self.advantages = explorer.observe(self.rollouts, None, self.grades, self.rewards, valid, self.task, self.step)
        self.metrics = {name.removeprefix("exploration/"): value for name, value in explorer.metrics.items()}
        self.step += 1
        return self


def test_switched_off_everything_passes_through_untouched():
    run = Run({"preset": "grpo"}).take()
    assert [slot.problem for slot in run.slots] == PROBLEMS[:SIZE]
    for index, request in enumerate(run.explorer.requests(run.slots, 0, SIZE)):
        assert (request.prompt_ids, request.num_samples, request.rollout_id) == (
            PROMPTS[PROBLEMS[index].uid], GROUP, index * GROUP,
        )  # fmt: skip
    assert run.texts == [TOKENIZER.decode(run.rollouts.completion_ids(row).tolist()) for row in range(SIZE * GROUP)]
    assert run.advantages.tobytes() == run.plain.tobytes()
    assert (run.explorer.metrics, run.explorer.columns, run.explorer.dumps()) == ({}, {}, None)


@pytest.mark.parametrize(
    "explore",
    [
        {"arm": "G0"},
        {"arm": "G1"},
        {"preset": "corrected", "novelty": {"alpha": 0.0}, "prefix": {"enabled": False}},
        {"preset": "release_faithful", "novelty": {"alpha": 0.0}, "prefix": {"enabled": False}},
    ],
)
def test_without_a_bonus_advantages_are_those_of_grpo_bit_for_bit(explore):
    run, logged = Run(explore), {}
    for _ in range(7):  # the release pays nobody before the second visit
        run.take(solved=0.4)
        logged |= run.metrics
        assert [slot.problem for slot in run.slots] == [PROBLEMS[(8 * (run.step - 1) + i) % 40] for i in range(8)]
        assert run.advantages.tobytes() == run.plain.tobytes()
        assert run.metrics["guided_queue_size"] == 0
    assert logged["novelty_mean"] > 0, "what would have been is logged all the same"


def test_novelty_pays_correct_completions_that_differ():
    run = Run({"arm": "N1"})
    paid = 0
    for _ in range(6):
        run.take(solved=0.6)
        extra = run.advantages - run.plain
        correct = run.rewards > 0
        assert (extra[~correct] == 0).all()
        sums = np.where(correct, extra, 0).reshape(-1, GROUP).sum(axis=1)
        uncapped = np.abs(extra).max() < 0.3
        assert not uncapped or sums == pytest.approx(0.0, abs=0.2)
        solved = correct.reshape(-1, GROUP).sum(axis=1)
        assert (extra.reshape(-1, GROUP)[solved <= 1] == 0).all()
        paid += (extra != 0).sum()
        columns = run.explorer.columns
        recorded = [b or 0.0 for b in columns["bonus"]]
        assert recorded == pytest.approx(extra, abs=1e-6)
        assert columns["advantage_task"] == pytest.approx(run.plain, abs=1e-6)
    assert paid > 0


@pytest.mark.parametrize("arm", ["F", "P1", "B0"])
def test_guided_prompts_come_back_with_a_prefix_of_their_own_and_their_own_answer(arm):
    run = Run({"arm": arm, "prefix": SMALL["prefix"]})
    seen, texts = 0, {}
    for _ in range(8):
        run.take(solved=0.2)
        assert run.metrics["gt_check"] == 1.0
        for row, text in enumerate(run.texts):
            texts[f"{run.step}:{row}"] = text  # steps of records count from 1
        for index, slot in enumerate(run.slots):
            if slot.guided is None:
                continue
            seen += 1
            assert slot.guided.uid == slot.problem.uid == slot.graded.uid
            parent = texts[run.explorer.columns["parent"][index * GROUP]]
            prefix = TOKENIZER.decode(list(slot.prefix_ids))
            assert prefix
            assert parent.startswith(prefix)
            assert all(run.texts[row].startswith(prefix) for row in range(index * GROUP, (index + 1) * GROUP))
    assert seen >= 8
    assert run.metrics["guided_injected"] == 2


def test_there_is_no_loss_on_prefix_tokens():
    """A prefix is looked at like a prompt: weights and advantages begin behind it."""
    run, seen = Run({"arm": "P1", "prefix": SMALL["prefix"] | {"budget": "same_total"}}), 0
    for _ in range(6):
        run.take(solved=0.2)
        rows = np.arange(SIZE * GROUP)
        examples = grpo_examples(run.rollouts, np.ones(len(rows)), rows, run.config)
        packed = pack_rows(examples, [[row] for row in rows], 128, len(rows))
        for row in rows:
            slot = run.slots[run.rollouts.prompt_index[row]]
            before = len(PROMPTS[slot.problem.uid]) + len(slot.prefix_ids)
            after = before + run.rollouts.lengths[row]
            assert packed.tokens[row, before - len(slot.prefix_ids) : before].tolist() == list(slot.prefix_ids)
            for values in (packed.weights, packed.advantages):
                assert (values[row, before:after] > 0).all()
                assert (values[row, :before] == 0).all()
                assert (values[row, after:] == 0).all()
            seen += len(slot.prefix_ids)
    assert seen > 0


def test_guided_completions_get_no_bonus_but_are_remembered():
    run = Run({"arm": "F"})
    for _ in range(6):
        run.take(solved=0.3)
        guided = np.repeat([slot.guided is not None for slot in run.slots], GROUP)
        assert (run.advantages[guided] == run.plain[guided]).all()
        for slot in run.slots:
            if slot.guided is not None:
                assert len(run.explorer.state.prompts[slot.problem.uid].correct) >= 2 * GROUP


def test_clamp_leaves_no_negative_advantage_behind_a_prefix():
    run = Run({"arm": "P9", "prefix": {"control": "fresh"}})
    clamped = 0
    for _ in range(10):
        run.take(solved=0.3)
        guided = np.repeat([slot.guided is not None for slot in run.slots], GROUP)
        np.testing.assert_array_equal(run.advantages[guided], np.maximum(run.plain[guided], 0))
        np.testing.assert_array_equal(run.advantages[~guided], run.plain[~guided])
        clamped += (run.plain[guided] < 0).sum()
    assert clamped > 0


def test_the_replica_shows_the_defect_that_release_faithful_does_not_have():
    """D1: graded against the displaced problem's answer, a correct guided completion counts as wrong."""
    rates = {}
    for arm in ("B0", "B1"):
        run = Run({"arm": arm, "acknowledge_bugs": True, "prefix": SMALL["prefix"]})
        found, checks = [], []
        for _ in range(10):
            run.take(solved=0.15)
            truth = CountdownGrader().grade([run.slots[i].problem for i in run.rollouts.prompt_index], run.texts)
            for row, slot in enumerate(run.slots[i] for i in run.rollouts.prompt_index):
                if slot.guided is not None:
                    found.append(run.grades[row].verdict == truth[row].verdict)
            if any(slot.guided for slot in run.slots):
                checks.append(run.metrics["gt_check"])
        rates[arm] = (np.mean(checks), all(found))
    assert rates["B0"] == (1.0, True)
    assert rates["B1"][0] == 0.0


def test_a_grader_that_failed_makes_nobody_hard_and_pays_nobody():
    run = Run({"arm": "F"})
    run.explorer.inject(run.next_batch, 0)
    rollouts = written(run.explorer.slots, 0, solved=0.0)
    grades = [Grade(Verdict.TIMEOUT, None, "test")] * len(rollouts)
    zeros = np.zeros(len(rollouts))
    found = run.explorer.observe(rollouts, None, grades, zeros, zeros > 0, run.task, 0)
    assert (found == 0).all()
    assert run.explorer.metrics["exploration/hard_prompt_count"] == 0


@pytest.mark.parametrize("explore", [{"arm": "F"}, {"arm": "L1"}, {"arm": "B0", "prefix": SMALL["prefix"]}])
def test_a_run_that_was_saved_and_read_takes_the_identical_next_step(explore):
    run = Run(explore)
    for _ in range(4):
        run.take()
    again = Run(explore, run.explorer.dumps().tobytes())
    again.next_batch, again.step = InOrder(run.next_batch.position), run.step
    expected, found = run.take(), again.take()
    np.testing.assert_array_equal(found.advantages, expected.advantages)
    assert found.explorer.dumps().tobytes() == expected.explorer.dumps().tobytes()


def test_transfer_tells_drawn_prompts_from_those_that_only_waited():
    run = Run({"arm": "P6"})
    counts = np.zeros(2)
    for _ in range(20):
        run.take(solved=0.1)
        counts += run.metrics["transfer_drawn_count"], run.metrics["transfer_not_drawn_count"]
        assert all(slot.prefix_ids == () for slot in run.slots), "P6 draws the prompt afresh"
    assert (counts > 0).all()
    assert run.metrics["guided_injected"] == 2


def test_every_arm_runs_and_logs_the_real_signals():
    for arm in ARMS:
        explore = {"arm": arm, "acknowledge_bugs": True}
        run = Run(explore | ({"prefix": SMALL["prefix"]} if arm in ("B0", "B1") else {}))
        logged = set()
        for _ in range(7):
            logged |= run.take(solved=0.4).metrics.keys()
            assert np.isfinite(run.advantages).all()
        assert {"novelty_mean", "novelty_lexical_mean", "prefix_score", "match_sum"} <= logged, arm


def test_prefixes_of_correct_attempts_only():
    run = Run({"arm": "P1", "prefix": {"source": "correct", "hard_max_correct": 2}})
    queued = 0
    for _ in range(4):
        run.take(solved=0.2)
        solved = {
            run.slots[i].problem.uid for i, grade in zip(run.rollouts.prompt_index, run.grades, strict=True)
            if grade.verdict is Verdict.CORRECT
        }  # fmt: skip
        born = [entry for entry in run.explorer.state.queue if entry.born == run.step - 1]
        assert {entry.uid for entry in born} <= solved
        assert all(entry.prefix.correct for entry in born)
        assert run.metrics["no_cut_share"] > 0.0, "all-wrong prompts are hard, and offer nothing"
        queued += len(born)
    assert queued > 0


def test_guided_prompts_are_told_apart_by_the_attempt_that_was_cut():
    run = Run({"arm": "P1", "prefix": {"hard_max_correct": 2}})
    seen = set()
    for _ in range(6):
        run.take(solved=0.2)
        correct = np.array([grade.verdict is Verdict.CORRECT for grade in run.grades]).reshape(-1, GROUP)
        for name, wanted in (("source_correct", True), ("source_wrong", False)):
            groups = [
                c for c, s in zip(correct, run.slots, strict=True) if s.guided and s.guided.prefix.correct == wanted
            ]
            if not groups:
                assert f"guided_pass_rate_{name}" not in run.metrics
                continue
            seen.add(name)
            assert run.metrics[f"guided_pass_rate_{name}"] == pytest.approx(np.mean(groups))
            mixed = np.mean([c.any() and not c.all() for c in groups])
            assert run.metrics[f"guided_frac_mixed_{name}"] == pytest.approx(mixed)
    assert len(seen) == 2
