"""Exploration as the training loop sees it: slots before the step, advantages after it.

Order of one step (method/extra.md a.5, b.4b): inject -> generate -> grade -> distances -> bonus -> memory -> hard
prompts -> prefixes -> queue. A prefix made in step ``s`` is used in ``s + 1`` at the earliest.

Every process gathers what the others saw and computes the same state; nothing depends on how many there are.
"""

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import jax
import numpy as np

from extra_jax.config import Config
from extra_jax.data.loader import share
from extra_jax.data.problem import Problem
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.explore import diagnostics
from extra_jax.explore import metrics as measures
from extra_jax.explore.bonus import schedule_factor
from extra_jax.explore.distance import normalise
from extra_jax.explore.encoders import make_encoder, novelty_text
from extra_jax.explore.exchange import check_lockstep, gather_lists
from extra_jax.explore.hidden import token_spans
from extra_jax.explore.injection import Slot, expired, make_requests, next_slots
from extra_jax.explore.lexical import ngram_codes
from extra_jax.explore.novelty import Layout, Measured, Paid, Rows, layout, measure, pay, remember
from extra_jax.explore.proposals import Decisions, Group, enqueue, is_hard, propose, visit
from extra_jax.explore.state import ExplorationState
from extra_jax.explore.yoke import read_recorded
from extra_jax.parallel.processes import allgather
from extra_jax.reward.verdict import Grade, Verdict
from extra_jax.rollout.types import Request, Rollouts

TaskAdvantages = Callable[[np.ndarray], np.ndarray]
"""Rewards ``[R]`` of this process -> their advantages ``[R]``; all processes call it together."""

_VARIANCE_DECAY = 0.9  # of the running reward variance (a.3)


class Explorer:
    """Novelty and prefix regeneration of one run. With ``preset: grpo`` it hands everything through untouched.

    Args:
        config: of the run.
        problems: all training problems.
        prompts: token ids by uid.
        tokenizer: of the policy.

    Attributes:
        metrics: of the last step, under ``exploration/``; the same on every process.
        columns: lineage of this process's completions of the last step, for their records.
        parts: the advantages of the last step, ``[R]``, by what they are made of; they add up to the whole.

    Raises:
        ExtraError: the encoder does not load, or the run that a control is yoked to does not fit.
    """

    def __init__(
        self, config: Config, problems: Sequence[Problem], prompts: Mapping[str, list[int]], tokenizer: Tokenizer
    ):
        self.config, self.settings, self.tokenizer, self.prompts = config, config.explore, tokenizer, prompts
        self.problems = {problem.uid: problem for problem in problems}
        self.size, self.group = config.train.prompts_per_step, config.train.num_generations
        mine = self._share(self.size)
        self.first, self.share = mine.start, len(mine)  # of this process's slots in the whole step
        warmup = self.settings.prefix.warmup_steps
        self.warmup = config.train.max_steps // 10 if warmup is None else warmup
        self.state = ExplorationState()
        self.slots: list[Slot] = []
        self.metrics: dict[str, float] = {}
        self.columns: dict[str, list] = {}
        self.parts: dict[str, np.ndarray] = {}
        self._encoder = make_encoder(self.settings.encoder) if self.settings.active else None
        self._recorded = read_recorded(config)
        self._encoding_s, self._expired, self._truncated = 0.0, 0, 0

    def inject(self, next_batch: Callable[[], list[Problem]], step: int) -> list[Slot]:
        """This process's slots of a step.

        Args:
            next_batch: the next problems of the whole run, the same on every process; ``prompts_per_step`` of them
                where there is something to explore.
            step: of the run.
        """
        if not self.settings.active:
            problems = next_batch()
            return [Slot(problems[i], problems[i]) for i in self._share(len(problems))]
        self._expired = sum(expired(entry, self.settings.prefix, step) for entry in self.state.queue)
        self.slots = next_slots(
            self.state,
            self.problems,
            next_batch,
            self.settings.prefix,
            size=self.size,
            guided=self.config.guided_slots if self.settings.prefix.enabled else 0,
            seed=self.config.run.seed,
            step=step,
        )
        return self.slots[self.first : self.first + self.share]

    def requests(self, slots: Sequence[Slot], before: int, count: int) -> list[Request]:
        """What the sampler is asked for this process's slots, of ``count`` that come after ``before`` others."""
        first = before + self._share(count).start
        return make_requests(slots, self.prompts, self.group, first, self.settings.prefix)

    def spans(self, rollouts: Rollouts) -> np.ndarray | None:
        """``[R, 2]`` completion tokens over which ``observe`` wants the mean hidden state; ``None``: it wants none."""
        if not self.settings.reads_hidden_states:
            return None
        return token_spans(rollouts, self.tokenizer, self.settings.novelty)

    def observe(
        self,
        rollouts: Rollouts,
        hidden: np.ndarray | None,
        grades: Sequence[Grade],
        rewards: np.ndarray,
        valid: np.ndarray,
        task_advantages: TaskAdvantages,
        step: int,
    ) -> np.ndarray:
        """Advantages of this process's completions; learns from the step what the next ones need.

        Args:
            rollouts: ``R`` completions of the slots.
            hidden: ``[R, D]`` f32 mean hidden state of each over ``spans``, or ``None`` with them.
            grades: ``[R]``.
            rewards: ``[R]``.
            valid: ``[R]`` bool; 1 where the verdict says something about the policy.
            task_advantages: of the plain algorithm.
            step: of the run.

        Returns:
            ``[R]`` f64; exactly those of ``task_advantages`` where there is no bonus.
        """
        if not self.settings.active:
            self.parts = {"task": task_advantages(rewards)}
            return self.parts["task"]
        correct = np.array([grade.verdict is Verdict.CORRECT for grade in grades], bool)
        self._encoding_s = 0.0
        rows = self._rows(rollouts, hidden, correct, rewards, valid)
        guided = np.array([slot.guided is not None for slot in self.slots])[rows.slot]
        uids = [self.slots[slot].problem.uid for slot in rows.slot]
        novelty = self.settings.novelty
        looked_at = self.settings.needs_novelty
        eligible = (~guided | (novelty.guided == "reward")) & looked_at
        where = layout([uid if ok else None for uid, ok in zip(uids, eligible, strict=True)])
        measured = measure(
            rows,
            where,
            self.state,
            self.settings,
            group=self.group,
            seed=self.config.run.seed,
            step=step,
            recorded=self._recorded.get(step),
        )
        task, total, paid = self._advantages(rows, where, measured, rewards, task_advantages, step)
        if self.settings.prefix.negative_advantage == "clamp":
            total = np.where(guided, np.maximum(total, 0.0), total)

        self.metrics = measures.group_metrics(rows, self.slots)
        self.metrics |= diagnostics.reward_diagnostics(rows, self.slots, total)
        if looked_at:
            self.metrics |= measures.novelty_metrics(rows, where, measured, paid, where.spread(task), novelty)
            self.metrics |= diagnostics.novelty_diagnostics(rows, where, measured, self.state)
            if recorded := self._recorded.get(step):
                self.metrics |= measures.yoke_metrics(recorded, measured, paid)
        self.state.scales, self.state.used_scales = paid.scales, paid.used_scales
        kept = (~guided | (novelty.guided != "ignore")) & looked_at
        keys = [uid if ok else None for uid, ok in zip(uids, kept, strict=True)]
        remember(rows, keys, self.state, novelty, group=self.group, step=step)
        diagnostics.note_novelty(rows, where, measured, self.state)
        self.metrics |= self._regenerate(rows, rollouts, correct, step)
        self.metrics |= measures.state_metrics(self.state, self.slots, total[guided], self._expired, step)
        self.metrics["exploration/encoder_s"] = self._encoding_s
        if self._encoder is not None and looked_at:
            self.metrics["exploration/truncated_text_share"] = self._truncated / len(rows.slot)
        mine = slice(self.first * self.group, (self.first + self.share) * self.group)
        self.metrics |= diagnostics.entropy_deciles(rollouts, ~guided[mine])
        bonus = np.where(guided, 0.0, total - task)
        self.parts = {
            "task": np.where(guided, 0.0, task)[mine],
            "novelty": bonus[mine],
            "guided": np.where(guided, total, 0.0)[mine],
        }
        self.columns = measures.lineage(rows, self.slots, where, measured, paid, task, mine)
        check_lockstep(self._summary(), step)
        return total[mine]

    @staticmethod
    def _share(count: int) -> range:
        return share(count, jax.process_index(), jax.process_count())

    def dumps(self) -> np.ndarray | None:
        """The state for a checkpoint, ``[n]`` uint8; ``None`` where there is none to save."""
        return np.frombuffer(self.state.dumps(), np.uint8) if self.settings.active else None

    def loads(self, data: np.ndarray | None) -> None:
        """Continues where ``dumps`` was called."""
        if data is not None:
            self.state = ExplorationState.loads(np.asarray(data, np.uint8).tobytes())

    def _rows(
        self,
        rollouts: Rollouts,
        hidden: np.ndarray | None,
        correct: np.ndarray,
        rewards: np.ndarray,
        valid: np.ndarray,
    ) -> Rows:
        """What novelty needs to know of the whole step."""
        novelty, mask = self.settings.novelty, rollouts.completion_mask
        logprobs = np.sum(rollouts.logprobs, axis=1, where=mask, dtype=np.float64)
        entropies = np.sum(rollouts.entropies, axis=1, where=mask, dtype=np.float64) / np.maximum(rollouts.lengths, 1)
        numbers = (
            rollouts.prompt_index + self.first,
            rollouts.rollout_ids,
            rollouts.lengths,
            logprobs,
            entropies,
            correct,
            valid,
            rollouts.truncated,
            rewards,
        )
        slot, ids, lengths, logprobs, entropies, correct, valid, truncated, rewards = allgather(
            np.stack(numbers, axis=1).astype(np.float64)
        ).T
        completions = [rollouts.completion_ids(row) for row in range(len(rollouts))]
        if not self.settings.needs_novelty:
            vectors = np.zeros((len(rollouts), 1), np.float32)
        elif self.settings.reads_hidden_states:
            vectors = normalise(hidden)
        else:
            vectors = self._encode([novelty_text(ids, self.tokenizer, novelty) for ids in completions])
            self._truncated = int(allgather(np.array([self._encoder.truncated])).sum())
        codes = []
        if self._needs_codes:
            codes = gather_lists([ngram_codes(ids[-novelty.span_tokens :], novelty.ngram) for ids in completions])
        return Rows(
            slot=slot.astype(np.int64),
            rollout_ids=ids.astype(np.int64),
            lengths=lengths,
            logprobs=logprobs,
            entropies=entropies,
            correct=correct.astype(bool),
            valid=valid.astype(bool),
            truncated=truncated.astype(bool),
            rewards=rewards,
            vectors=allgather(vectors),
            codes=codes,
        )

    @property
    def _needs_codes(self) -> bool:
        novelty = self.settings.novelty
        return (
            self.settings.arm is not None or novelty.metric in ("jaccard", "ngram_count") or novelty.control == "hash"
        )

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        began = time.perf_counter()
        vectors = self._encoder.encode(texts)
        self._encoding_s += time.perf_counter() - began
        return vectors

    def _advantages(
        self,
        rows: Rows,
        where: Layout,
        measured: Measured,
        rewards: np.ndarray,
        task_advantages: TaskAdvantages,
        step: int,
    ) -> tuple[np.ndarray, np.ndarray, Paid]:
        """Of the whole step ``[N]``: the task's advantages, those with the bonus, and the bonus."""
        novelty = self.settings.novelty
        schedule = schedule_factor(novelty.schedule, step, self.config.train.max_steps)
        damping = self._damping(rows, where) if novelty.variance_lambda else None
        task = allgather(task_advantages(rewards))
        solved = rows.correct.reshape(-1, self.group).sum(axis=1)
        mixed = np.repeat((solved > 0) & (solved < self.group), self.group)
        after = {"advantages": where.spread(task), "mixed": where.spread(mixed)}
        paid = pay(
            measured,
            self.state,
            novelty,
            schedule=schedule,
            damping=damping,
            recorded=self._recorded.get(step),
            **(after if novelty.placement == "after" else {}),
        )
        if not novelty.enabled:
            return task, task, paid
        extra = where.collect(paid.bonus.values, len(task))
        if novelty.placement == "before":
            mine = slice(self.first * self.group, self.first * self.group + len(rewards))
            return task, allgather(task_advantages(rewards + extra[mine])), paid
        total = np.where(extra != 0.0, task + extra, task)
        if novelty.floor_correct:
            total = np.where((extra != 0.0) & rows.correct, np.maximum(total, 0.0), total)
        return task, total, paid

    def _damping(self, rows: Rows, where: Layout) -> np.ndarray:
        """``[K]`` ``exp(-lambda v)`` with the running variance ``v`` of each problem's rewards (option A, a.3)."""
        factors = np.ones(len(where.uids))
        for k, (uid, members) in enumerate(zip(where.uids, where.members, strict=True)):
            prompt = self.state.prompt(uid)
            now = float(np.var(rows.rewards[members[members >= 0]], ddof=1))
            prompt.variance = _VARIANCE_DECAY * prompt.variance + (1.0 - _VARIANCE_DECAY) * now
            factors[k] = np.exp(-self.settings.novelty.variance_lambda * prompt.variance)
        return factors

    def _regenerate(self, rows: Rows, rollouts: Rollouts, correct: np.ndarray, step: int) -> dict[str, float]:
        """Finds hard prompts, remembers their prefixes and queues one of each."""
        prefix, seed = self.settings.prefix, self.config.run.seed
        facts = np.stack([rows.correct, ~rows.valid & ~rows.correct, rows.truncated], axis=1)
        groups = [Group(self.group, *map(int, g)) for g in facts.reshape(-1, self.group, 3).sum(axis=1)]
        outcome = measures.visit_metrics(self.slots, groups, self.state)
        hard: list[int] = []
        for index, (slot, group) in enumerate(zip(self.slots, groups, strict=True)):
            prompt = self.state.prompt(slot.problem.uid)
            depth = 0 if slot.guided is None else slot.guided.prefix.depth
            if slot.guided is None:
                visit(prompt, group)
                prompt.waiting = ""
                prompt.hard = is_hard(prompt, group, prefix)
            may_grow = prefix.max_depth is None or depth < prefix.max_depth
            if may_grow and (prompt.hard if slot.guided is None else is_hard(prompt, group, prefix)):
                hard.append(index)
        outcome |= measures.hard_metrics(self.slots, groups, hard, prefix)
        if not self.settings.needs_prefixes or step + 1 <= self.warmup:
            return outcome
        mine = {i: self.slots[i] for i in hard if self.first <= i < self.first + self.share}
        vectors = self._encode if self._encoder is not None and self._needs_prefix_vectors else None
        proposals = gather_lists(
            propose(
                mine, rollouts, correct, self.first, self.tokenizer, vectors, prefix,
                room=self._room, seed=seed, step=step,
            )
        )  # fmt: skip
        decisions: Decisions = enqueue(
            proposals, self.slots, self.state, prefix, real_smoothing=self._real_smoothing, seed=seed, step=step
        )
        outcome |= diagnostics.prefix_diagnostics(decisions, self.slots, prefix.max_depth)
        return outcome | measures.prefix_metrics(proposals, decisions, rows, self.slots, seed, step)

    @property
    def _needs_prefix_vectors(self) -> bool:
        return self._real_smoothing == "embedding"

    @property
    def _real_smoothing(self) -> str:
        """How the choice that is logged in every arm is smoothed: also where the arm itself does not."""
        prefix = self.settings.prefix
        if self._encoder is None:
            return "prefix_overlap"
        return "embedding" if prefix.smoothing == "none" else prefix.smoothing

    def _room(self, slot: Slot) -> int:
        """Tokens that a prefix of a problem may have: a completion needs one more, a prompt has its own limit."""
        rollout = self.config.rollout
        if self.settings.prefix.budget == "same_total":
            return rollout.max_completion_length - 1
        return rollout.max_prompt_length - len(self.prompts[slot.problem.uid])

    def _summary(self) -> str:
        """What the next step depends on, but for the memory's arrays."""
        state = self.state
        queue = [(entry.uid, entry.born, zlib.crc32(entry.prefix.tokens.tobytes())) for entry in state.queue]
        return json.dumps([queue, state.pending, asdict(state.scales), asdict(state.used_scales)])
