"""Endless batches of problems: the same global sequence on any number of processes, exact to resume."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import grain

from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.parallel.processes import share

_STATE_VERSION = 3


class ProblemLoader:
    """Shuffled, repeated, batched problems, on Grain.

    The global sequence is: epoch after epoch, each a fresh permutation of all problems, cut into global
    batches, of ``prompts_per_step`` unless another size is asked for. An epoch that does not fill its last batch
    borrows from the next one, so nothing is dropped. Such a batch can hold a problem twice; one that is larger than
    the data set has to. Process ``p`` of ``n`` takes the ``p``-th of ``n`` contiguous slices of each global batch:
    joined in process order the batches do not depend on ``n``, and a state saved by one process count can be restored
    by another.

    Args:
        problems: The data set, in a fixed order, with unique uids.
        prompts_per_step: Size of the *global* batch, a multiple of ``process_count``.
        seed: Seed of all permutations; any integer.

    Raises:
        ExtraError: Empty data set, repeated uid, or a batch that the processes cannot share evenly.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        prompts_per_step: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        _check(problems, prompts_per_step, process_index, process_count)
        self._problems = list(problems)
        self._prompts_per_step = prompts_per_step
        self._identity = {
            "version": _STATE_VERSION,
            "problems": len(self._problems),
            "problems_sha256": _fingerprint(self._problems),
            "seed": seed,
            "prompts_per_step": prompts_per_step,
        }
        self._process = (process_index, process_count)
        # Grain permutes indices, and each process looks up the problems of its own slice only. `shuffle` reseeds
        # by itself in every epoch of `repeat`. The problems are in memory already, so threads would only add a queue.
        # Its permutation walks a domain of at least 2**16: microseconds a problem from a thousand problems up, but some
        # milliseconds each for a handful.
        indices = grain.MapDataset.range(len(self._problems)).shuffle(seed=_grain_seed(seed)).repeat()
        self._iterator = iter(indices.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))

    def next(self, count: int | None = None) -> list[Problem]:
        """This process's slice of the next global batch: its ``share`` of ``count`` (``prompts_per_step``) problems."""
        count = self._prompts_per_step if count is None else count
        batch = [next(self._iterator) for _ in range(count)]
        return [self._problems[batch[i]] for i in share(count, *self._process)]

    @property
    def epoch(self) -> float:
        """Passes over the data set so far: 1.5 means that every problem was seen once and half of them twice."""
        return self._iterator.get_state()["next_index"] / len(self._problems)

    def state(self) -> dict[str, Any]:
        """The position, and what it is a position in; holds only JSON types, the same on all processes."""
        return {**self._identity, "iterator": self._iterator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues where ``state`` was taken: the next batch is the one that would have come then.

        Raises:
            ExtraError: The state belongs to another data set, seed or batch size; says what differs.
        """
        keys = {*self._identity, "iterator"}
        if set(state) != keys:
            raise ExtraError(f"this is no data state: it has the keys {sorted(state)}, expected {sorted(keys)}.")
        meanings = {
            "version": "state version",
            "problems": "number of problems",
            "problems_sha256": "uids of the problems or their order, wording or answers",
            "seed": "seed",
            "prompts_per_step": "prompts_per_step",
        }
        differing = [
            f"{meaning} ({state[key]!r} in the state, {self._identity[key]!r} here)"
            for key, meaning in meanings.items()
            if state[key] != self._identity[key]
        ]
        if differing:
            raise ExtraError(
                f"the data state was made by another run: {'; '.join(differing)}. Resume with the data set and the "
                "settings it was made with, or start a new run."
            )
        self._iterator.set_state(state["iterator"])


def _check(problems: Sequence[Problem], prompts_per_step: int, process_index: int, process_count: int) -> None:
    if not problems:
        raise ExtraError("there are no problems to load. Give a source with at least one.")
    seen: set[str] = set()
    for problem in problems:
        if problem.uid in seen:
            raise ExtraError(f"two problems have the uid {problem.uid!r}. When sources are joined, make uids unique.")
        seen.add(problem.uid)
    if prompts_per_step < 1 or prompts_per_step % process_count != 0:
        raise ExtraError(
            f"prompts_per_step is {prompts_per_step}, which {process_count} processes cannot share evenly. "
            f"Use a multiple of {process_count}."
        )
    if not 0 <= process_index < process_count:
        raise ExtraError(f"process_index is {process_index}; with {process_count} processes it is below that, from 0.")


def _fingerprint(problems: Sequence[Problem]) -> str:
    """SHA-256 over everything that a problem is, in order."""

    def plain(value: Any) -> Any:
        return dict(value) if isinstance(value, Mapping) else type(value).__name__

    digest = hashlib.sha256()
    for p in problems:
        whole = [p.uid, p.prompt, p.answer, p.solution, p.source, dict(p.meta)]
        digest.update(json.dumps(whole, default=plain).encode() + b"\n")
    return digest.hexdigest()


def _grain_seed(seed: int) -> int:
    """Grain's 32-bit seed.

    Grain permutes epoch ``e`` with ``seed + e``; without hashing, epoch 1 of seed 0 would repeat epoch 0 of seed 1.
    """
    return int.from_bytes(hashlib.sha256(f"extra_jax.loader/{seed}".encode()).digest()[:4], "big")
