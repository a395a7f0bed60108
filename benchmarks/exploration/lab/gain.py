"""Does the prefix help? Fresh continuations behind the chosen prefix, others, and none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.exploration import Exploration
from extra_jax.explore import RunInfo
from extra_jax.explore.keyed import keyed_rng
from extra_jax.explore.prefix_state import Guided, PrefixState
from extra_jax.parallel.processes import allgather, filled_share
from extra_jax.rollout.types import Request, Rollouts
from extra_jax.telemetry.statistics import spearman

from .choosers import matched_position

KINDS = ("chosen", "raw", "matched", "empty")


class Generates(Protocol):
    """What the probe needs of a sampler, which should have random numbers of its own."""

    def generate(self, weights: Any, requests: list[Request], step: int) -> Rollouts: ...


@dataclass(frozen=True)
class GainProbe:
    """Measures the prefix gain ``V(x, h) - V(x)`` on prompts that wait. It changes nothing.

    Four kinds of ``h`` for each prompt: the one in the queue, the best without smoothing, one where the lowest score
    usually lies, and none; all with the same room in total.

    Attributes:
        run: as ``init`` of a policy gets it.
        exploration: of the run; its state is read.
        sampler: see ``Generates``.
        correct: problems and texts ``[n]`` -> ``[n]`` bool.
        every: steps between measurements.
        prompts: waiting prompts measured.
        samples: continuations of each prefix.
        policy: which of the run's prompt policies is ``prefixes``.
        in_prompt: the prefix uses up room of the prompt (``budget: full``).
    """

    run: RunInfo
    exploration: Exploration
    sampler: Generates
    correct: Callable[[Sequence[Problem], Sequence[str]], np.ndarray]
    every: int
    prompts: int = 32
    samples: int = 8
    policy: int = 0
    in_prompt: bool = False

    def __call__(self, weights: Any, step: int) -> dict[str, float]:
        """Metrics ``exploration/gain_*``; empty where it is not due or nothing waits. All processes call it together.

        Args:
            weights: of the policy, in the rollout layout.
            step: of the run, from 0.
        """
        tree = self.exploration.state() if step % self.every == 0 else None
        if tree is None:
            return {}
        state = PrefixState.load(tree["policies"][self.policy])
        if not state.queue:
            return {}
        order = keyed_rng("gain", self.run.seed, step).permutation(len(state.queue))[: self.prompts]
        entries = [state.queue[index] for index in sorted(order)]
        local = filled_share(len(entries))
        tries = [(entries[index], *kind) for index in local for kind in self._kinds(entries[index], state, step)]
        first = local[0] * len(KINDS)
        requests = [self._request(entry.uid, ids, first + row) for row, (entry, ids, _) in enumerate(tries)]
        rollouts = self.sampler.generate(weights, requests, step)
        rows = [(row, *tries[place]) for row, place in enumerate(rollouts.prompt_index)]
        texts = [self.run.tokenizer.decode([*ids, *rollouts.completion_ids(row).tolist()]) for row, _, ids, _ in rows]
        right = self.correct([self.run.problems[entry.uid] for _, entry, _, _ in rows], texts)
        rates = np.asarray(right, np.float64).reshape(len(local), len(KINDS), self.samples).mean(axis=2)
        scores = np.array([score for _, _, score in tries]).reshape(len(local), len(KINDS))
        gathered = allgather(np.stack([rates, scores], axis=1))[: len(entries)]
        return gain_metrics(gathered[:, 0], gathered[:, 1])

    def _kinds(self, entry: Guided, state: PrefixState, step: int) -> list[tuple[list[int], float]]:
        """Tokens and score of each kind of prefix."""
        pool = state.record(entry.uid).prefixes or [entry.prefix]
        rng = keyed_rng("gain", self.run.seed, step, entry.uid)
        raw = min(pool, key=lambda prefix: prefix.score)
        matched = pool[matched_position(pool, state.positions, rng)]
        kinds = [(prefix.tokens.tolist(), prefix.score) for prefix in (entry.prefix, raw, matched)]
        return [*kinds, ([], entry.prefix.score)]

    def _request(self, uid: str, prefix: list[int], index: int) -> Request:
        prompt = self.run.prompt_ids[uid]
        if self.in_prompt or not prefix:
            return Request([*prompt, *prefix], self.samples, index * self.samples)
        return Request(prompt, self.samples, index * self.samples, prefix_ids=tuple(prefix))


def gain_metrics(rates: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Gains with 95 % normal intervals over prompts, and how well the score orders the prefixes of a prompt.

    Args:
        rates: ``[Q, 4]`` share of correct continuations, by prompt and kind.
        scores: ``[Q, 4]`` score of each prefix; that of the empty one is not used.
    """
    numbers: dict[str, float] = {"gain_prompts": float(len(rates)), "gain_empty_rate": float(rates[:, -1].mean())}
    for column, kind in enumerate(KINDS):
        numbers[f"gain_informative_{kind}"] = float(np.mean((rates[:, column] > 0) & (rates[:, column] < 1)))
        if kind != "empty":
            gain = rates[:, column] - rates[:, -1]
            half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
            numbers |= {f"gain_{kind}": float(gain.mean()), f"gain_{kind}_half_width": float(half)}
            numbers[f"gain_{kind}_negative"] = float(np.mean(gain < 0))
    orders = [spearman(s, r, decimals=6) for s, r in zip(scores[:, :-1], rates[:, :-1], strict=True)]
    if known := [order for order in orders if np.isfinite(order)]:
        numbers["gain_score_spearman"] = float(np.mean(known))
    return {f"exploration/{name}": value for name, value in numbers.items() if np.isfinite(value)}
