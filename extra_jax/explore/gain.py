"""Does the prefix help? Fresh continuations behind the chosen prefix, others, and none (method/extra.md c.5)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
from flax import nnx

from extra_jax.explore.explorer import Explorer
from extra_jax.explore.injection import Slot, make_requests, responses
from extra_jax.explore.keyed import keyed_rng
from extra_jax.explore.metrics import PREFIX, ranks
from extra_jax.explore.prefix import Prefix
from extra_jax.explore.proposals import matched_position, memory_key
from extra_jax.explore.state import Guided
from extra_jax.parallel.processes import allgather, process_slice
from extra_jax.reward.rewards import Rewards
from extra_jax.rollout.types import Request, Rollouts

KINDS = ("chosen", "raw", "matched", "empty")


class Generate(Protocol):
    """What the probe needs of a sampler."""

    def generate(self, weights: nnx.State, requests: list[Request], step: int) -> Rollouts: ...


class GainProbe:
    """Measures the prefix gain ``V(x, h) - V(x)`` on prompts that wait, every ``gain_every`` steps.

    Four kinds of ``h`` for each prompt: the one in the queue, the best without smoothing, one where the real choice
    usually lies, and none; all with the same room in total.

    Args:
        explorer: of the run.
        sampler: with random numbers of its own.
        rewards: of the run.
    """

    def __init__(self, explorer: Explorer, sampler: Generate, rewards: Rewards):
        self.explorer, self.sampler, self.rewards = explorer, sampler, rewards
        self.settings = explorer.settings.probe

    def __call__(self, weights: nnx.State, step: int) -> dict[str, float]:
        """Metrics ``exploration/gain_*``; empty where it is not due or nothing waits. All processes call it together.

        Args:
            weights: of the policy, in the rollout layout.
            step: of the run.
        """
        every = self.settings.gain_every
        if not every or step % every or not self.explorer.state.queue:
            return {}
        entries = self._entries(step)
        total = len(entries)
        mine = process_slice(total)
        slots = [slot for i in mine for slot in self._slots(entries[i], step)]
        samples, prefix = self.settings.gain_samples, self.explorer.settings.prefix
        requests = make_requests(slots, self.explorer.prompts, samples, mine[0] * len(KINDS), prefix)
        rollouts = self.sampler.generate(weights, requests, step)
        texts = responses(self.explorer.tokenizer, rollouts, slots)
        ids = [rollouts.completion_ids(row) for row in range(len(rollouts))]
        scores = self.rewards([slots[i].graded for i in rollouts.prompt_index], texts, ids)
        correct = scores.correct.astype(np.float64)
        rates = correct.reshape(len(mine), len(KINDS), samples).mean(axis=2)
        worth = np.array([s.guided.prefix.score for s in slots]).reshape(len(mine), len(KINDS))
        gathered = allgather(np.stack([rates, worth], axis=1))[:total]
        return gain_metrics(gathered[:, 0], gathered[:, 1])

    def _entries(self, step: int) -> list[Guided]:
        queue, count = self.explorer.state.queue, self.settings.gain_prompts
        order = keyed_rng("gain", self.explorer.config.run.seed, step).permutation(len(queue))
        return [queue[i] for i in sorted(order[:count])]

    def _slots(self, entry: Guided, step: int) -> list[Slot]:
        """One slot of each kind."""
        problem = self.explorer.problems[entry.uid]
        state = self.explorer.state
        pool = state.prompts[memory_key(Slot(problem, problem), self.explorer.settings.prefix)].prefixes or [
            entry.prefix
        ]
        rng = keyed_rng("gain", self.explorer.config.run.seed, step, entry.uid)
        found: Mapping[str, Prefix] = {
            "chosen": entry.prefix,
            "raw": min(pool, key=lambda prefix: prefix.score),
            "matched": pool[matched_position(pool, state.positions, rng)],
            "empty": replace(entry.prefix, tokens=entry.prefix.tokens[:0]),
        }
        return [Slot(problem, problem, replace(entry, prefix=found[kind])) for kind in KINDS]


def gain_metrics(rates: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Gains with 95 % normal intervals over prompts, and how well the score orders the prefixes of a prompt.

    Args:
        rates: ``[Q, 4]`` share of correct continuations, by prompt and kind.
        scores: ``[Q, 4]`` score of each prefix; that of the empty one is not used.
    """
    found: dict[str, float] = {"gain_prompts": float(len(rates)), "gain_empty_rate": float(rates[:, -1].mean())}
    for column, kind in enumerate(KINDS):
        found[f"gain_informative_{kind}"] = float(np.mean((rates[:, column] > 0) & (rates[:, column] < 1)))
        if kind != "empty":
            gain = rates[:, column] - rates[:, -1]
            half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
            found |= {f"gain_{kind}": float(gain.mean()), f"gain_{kind}_half_width": float(half)}
            found[f"gain_{kind}_negative"] = float(np.mean(gain < 0))
    orders = [np.corrcoef(ranks(s), ranks(r))[0, 1] for s, r in zip(scores[:, :-1], rates[:, :-1], strict=True)
              if np.ptp(s) > 0 and np.ptp(r) > 0]  # fmt: skip
    if orders:
        found["gain_score_spearman"] = float(np.mean(orders))
    return {PREFIX + name: value for name, value in found.items() if np.isfinite(value)}
