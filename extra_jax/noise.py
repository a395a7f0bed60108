"""Noise that the completions of a problem are given again, and what they were, so that they need not be decoded again.

A token is the argmax of logits and noise, and the noise is a function of an identity. Usually the step is part of it,
so that no noise ever returns. With ``rollout.noise=problem`` the noise epoch of the problem is, in the place of the
step: while it lasts, a visit differs from the one before only where the policy does (docs/methods/reuse.md).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.exploration import PromptRequest
from extra_jax.parallel.processes import allgather, filled_share, gather_objects
from extra_jax.reward.overlap import OverlappedGrading
from extra_jax.reward.rewards import Rewards
from extra_jax.reward.scores import mixed_groups
from extra_jax.rollout.engine import Sampler
from extra_jax.rollout.session import Progress
from extra_jax.rollout.store import STORE_BYTES, Store
from extra_jax.rollout.types import Counters, Request
from extra_jax.runtime import Runtime
from extra_jax.stages import Draw, Sampled

Identity = tuple[int, int]
"""What a request has in the place of step and rollout (``Request.noise``)."""

Trial = Callable[[nnx.State, int, Sequence[str], Sequence[Request], Progress | None], np.ndarray]
"""(parameters in the training layout, step, uids of problems, a request for each, progress) -> ``[requests]`` pass
rates, all of this process. It leaves no trace in the run."""

_MEASURED = 1024  # completions under each noise, of an evaluation


class Noise:
    """Fresh noise in every step, as runs have it by default. All processes call everything together."""

    def requests(self, prompts: Sequence[PromptRequest], own: Sequence[Request], first: int) -> list[Request]:
        """What the sampler is asked, with the noise that the problems have now.

        Args:
            prompts: of all processes, in process order.
            own: of this process.
            first: which of the prompts is its first one.
        """
        return list(own)

    def observed(self, draw: Draw) -> Draw:
        """``draw``, which asks what ``requests`` gave it, and what it brings counts from the end of the step on."""
        return draw

    def end_step(self) -> dict[str, float]:
        """Moves on to the next step; metrics of this one, the same on every process."""
        return {}

    def measured(self, params: nnx.State, step: int, progress: Progress | None) -> dict[str, float]:
        """Further numbers of an evaluation, the same on every process; ``params`` are in the training layout."""
        return {}

    def state(self) -> dict[str, Any] | None:
        """A tree for the checkpoint; ``None`` where there is nothing to save."""
        return None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continues where ``state`` was called."""


class _Group(NamedTuple):
    """What came of one prompt of the step."""

    uid: str
    noise: Identity
    mixed: bool
    completions: list[np.ndarray]  # empty where nobody keeps them


class ProblemNoise(Noise):
    """Noise that a problem keeps for some visits, and completions that are kept with it; the same on every process.

    A visit is a step in which completions of the problem are drawn. The noise epoch advances after ``visits`` of them,
    and at once when all completions of a group were wrong, or all were correct: the same noise would do it again.

    Args:
        visits: that a noise epoch lasts.
        group_size: completions a prompt.
        reuse: whether completions are kept as drafts for the next visit.
        trial: samples and grades for ``measured``.
        limit: bytes that completions may take.
    """

    def __init__(self, visits: int, group_size: int, *, reuse: bool, trial: Trial, limit: int = STORE_BYTES):
        self.visits, self.group_size, self.trial = visits, group_size, trial
        self.store = Store(limit) if reuse else None
        self._problems: dict[str, tuple[int, int]] = {}  # noise epoch, and visits in it
        self._step: list[_Group] = []  # what was drawn so far in this step
        self._asked: list[Identity] = []  # noise of the prompts that are being drawn
        self._counters = Counters()

    def requests(self, prompts: Sequence[PromptRequest], own: Sequence[Request], first: int) -> list[Request]:
        taken = {group.noise for group in self._step}
        self._asked = []
        for prompt in prompts:
            word, sample = self._word(prompt.problem.uid, prompt.prefix_ids), 0
            while (word, sample) in taken:  # twice in a step: these are further samples
                sample += self.group_size
            taken.add((word, sample))
            self._asked.append((word, sample))
        identities = self._asked[first : first + len(own)]
        return [self._with(noise, request) for noise, request in zip(identities, own, strict=True)]

    def observed(self, draw: Draw) -> Draw:
        def drawn(weights: nnx.State, step: int, first: int, count: int) -> Sampled:
            sampled = draw(weights, step, first, count)
            mixed, rollouts = mixed_groups(sampled.scores, self.group_size), sampled.rollouts
            completions: list[list[np.ndarray]] = [[] for _ in mixed]
            if self.store is not None:
                for row, index in enumerate(rollouts.prompt_index.tolist()):
                    completions[index].append(rollouts.completion_ids(row))
            outcomes = gather_objects([*zip(mixed.tolist(), completions, strict=True)])
            for prompt, noise, outcome in zip(sampled.requests, self._asked, outcomes, strict=True):
                self._step.append(_Group(prompt.problem.uid, noise, *outcome))
            self._counters += rollouts.counters
            return sampled

        return drawn

    def end_step(self) -> dict[str, float]:
        groups, self._step = self._step, []
        counters, self._counters = self._counters, Counters()
        again = [self._problems.get(group.uid, (0, 0))[1] > 0 for group in groups]
        dead = {group.uid for group in groups if not group.mixed}
        for uid in dict.fromkeys(group.uid for group in groups):
            epoch, visits = self._problems.get(uid, (0, 0))
            ends = uid in dead or visits + 1 >= self.visits
            self._problems[uid] = (epoch + 1, 0) if ends else (epoch, visits + 1)
        metrics = {"noise/kept": float(np.mean(again))}
        if self.store is None:
            return metrics
        for group in groups:
            if self._problems[group.uid][1]:
                self.store.put(group.noise, group.completions)
            else:  # nobody will be given this noise again
                self.store.drop(group.noise)
        return metrics | reuse_metrics(counters) | {"reuse/store_fill": self.store.size / self.store.limit}

    def measured(self, params: nnx.State, step: int, progress: Progress | None) -> dict[str, float]:
        """How much better the policy does under noise that it was trained on, on problems that keep theirs: the pass
        rate there, less that under fresh noise."""
        kept = [uid for uid, (_, visits) in self._problems.items() if visits]
        count = min(max(1, _MEASURED // self.group_size), len(kept))
        if not count:
            return {}
        chosen = np.linspace(0, len(kept) - 1, count).astype(int)
        own = [kept[index] for index in chosen[filled_share(count)]]
        requests = [self._with((self._word(uid, ()), 0), Request((), self.group_size, 0)) for uid in own]
        requests += [Request((), self.group_size, 0, noise=(_hashed("fresh", uid, step), 0)) for uid in own]
        rates = self.trial(params, step, own * 2, requests, progress).reshape(2, -1).T
        rates = allgather(rates)[:count]
        difference = rates[:, 0] - rates[:, 1]
        return {
            "noise/pass_rate_kept": float(rates[:, 0].mean()),
            "noise/pass_rate_fresh": float(rates[:, 1].mean()),
            "noise/bias": float(difference.mean()),
            "noise/bias_error": float(difference.std() / np.sqrt(count)),
        }

    def _with(self, noise: Identity, request: Request) -> Request:
        drafts = () if self.store is None else self.store.get(noise)
        return replace(request, noise=noise, drafts=drafts)

    def _word(self, uid: str, prefix_ids: Sequence[int]) -> int:
        epoch = self._problems.get(uid, (0, 0))[0]
        return _hashed(uid, epoch, [int(token) for token in prefix_ids])

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "uids": [*self._problems],
            "epochs": np.array([*self._problems.values()], np.int64).reshape(-1, 2),
        }
        return state if self.store is None else state | {"store": self.store.state()}

    def restore(self, state: dict[str, Any] | None) -> None:
        if state is None:
            raise ExtraError("the checkpoint knows nothing of rollout.noise=problem; choose another run.dir")
        epochs = [(epoch, visits) for epoch, visits in state["epochs"].tolist()]
        self._problems = dict(zip(state["uids"], epochs, strict=True))
        if self.store is not None and "store" in state:  # else the run went on without reuse
            self.store.restore(state["store"])


def make_noise(
    policy: Runtime,
    sampler: Sampler,
    rewards: Rewards,
    problems: Sequence[Problem],
    prompt_ids: Mapping[str, Sequence[int]],
) -> Noise:
    """What ``rollout.noise`` and ``rollout.reuse`` ask for, with the ``sampler`` and the ``rewards`` of the run."""
    settings, group_size = policy.config.rollout, policy.config.train.num_generations
    if settings.noise == "fresh":
        return Noise()
    by_uid = {problem.uid: problem for problem in problems}

    def trial(
        params: nnx.State, step: int, uids: Sequence[str], requests: Sequence[Request], progress: Progress | None
    ) -> np.ndarray:
        asked = [by_uid[uid] for uid in uids for _ in range(group_size)]
        grading = OverlappedGrading(rewards, policy.tokenizer.decode, asked)
        wanted = [
            replace(request, prompt_ids=prompt_ids[uid], rollout_id=number * group_size)
            for number, (uid, request) in enumerate(zip(uids, requests, strict=True))
        ]
        sampler.generate(policy.rollout_weights(params), wanted, step, progress, grading.finished)
        return grading.result()[1].correct.reshape(-1, group_size).mean(axis=1)

    return ProblemNoise(settings.noise_epochs, group_size, reuse=settings.reuse == "verified", trial=trial)


def reuse_metrics(counters: Counters) -> dict[str, float]:
    """What did not have to be decoded, over all processes."""
    numbers = [counters.tokens, counters.kept_tokens, counters.drafts, counters.kept_whole]
    decoded, kept, drafts, whole = allgather(np.array([numbers])).sum(axis=0).tolist()
    return {
        "reuse/kept_tokens": kept / max(decoded + kept, 1),
        "reuse/drafts": float(drafts),
        "reuse/kept_whole": float(whole),
        "reuse/mean_kept": kept / max(drafts, 1),
    }


def _hashed(*identity: object) -> int:
    """32 bits. Problems that are given the same ones by chance share their noise; their drafts are checked as usual."""
    return int.from_bytes(hashlib.sha256(repr(identity).encode()).digest()[:4], "little")
