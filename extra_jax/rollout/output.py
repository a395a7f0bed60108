"""What has come out of a call so far: one row for each completion, filled chunk by chunk."""

from collections.abc import Callable, Sequence

import numpy as np

from extra_jax.errors import ExtraError
from extra_jax.rollout.sampling import Draw
from extra_jax.rollout.schedule import Sample
from extra_jax.rollout.types import Counters, Request, Rollouts, SamplingParams, StopReason

Detokenize = Callable[[Sequence[int]], str]

_SPARE_TOKENS = 8  # looked at beyond the bytes of a stop string; a token may hold a part of a character, or nothing


class Output:
    """The rows of a result while they grow; ``detokenize`` is needed where there are stop strings."""

    def __init__(self, requests: Sequence[Request], params: SamplingParams, detokenize: Detokenize | None):
        if params.stop_strings and detokenize is None:
            raise ExtraError("stop strings need a tokenizer: give the sampler `detokenize`")
        self.requests, self.params, self.detokenize = requests, params, detokenize
        counts = [request.num_samples for request in requests]
        self.prompt_index = np.repeat(np.arange(len(requests), dtype=np.int32), counts)
        self.sample = np.concatenate([np.zeros(0, np.int64), *map(np.arange, counts)])  # number within its request
        first = np.array([request.rollout_id for request in requests], np.int64)
        self.rollout_ids = first[self.prompt_index] + self.sample
        prefixes = np.array([len(request.prefix_ids) for request in requests], np.int32)
        self.budgets = params.max_completion_length - prefixes[self.prompt_index]
        shape = (len(self.prompt_index), params.max_completion_length)
        self.tokens = np.zeros(shape, np.int32)
        self.numbers = {name: np.zeros(shape, np.float32) for name in Draw._fields[1:]}
        self.lengths = np.zeros(shape[0], np.int32)
        self.reasons: list[StopReason | None] = [None] * shape[0]
        self.finished = 0

    def identities(self, step: int) -> np.ndarray:
        """``[R, 2]`` uint32, what the draws of each row depend on beside seed and position."""
        usual = [(step, request.rollout_id) for request in self.requests]
        pairs = [request.noise or pair for request, pair in zip(self.requests, usual, strict=True)]
        first, second = np.array(pairs, np.int64).reshape(-1, 2)[self.prompt_index].T
        return np.stack([first, second + self.sample], axis=1).astype(np.uint32)

    def unfinished(self) -> tuple[list[np.ndarray], list[list[Sample]]]:
        """What is left to decode: contexts, and the samples that continue each of them. Rows without a token yet
        continue the context of their request, and one that has some continues its own."""
        contexts: list[np.ndarray] = []
        groups: list[list[Sample]] = []
        ends = np.cumsum([0, *(request.num_samples for request in self.requests)]).tolist()
        for request, start, end in zip(self.requests, ends, ends[1:], strict=False):
            context = np.array([*request.prompt_ids, *request.prefix_ids], np.int32)
            rows = [row for row in range(start, end) if self.reasons[row] is None]
            fresh = [row for row in rows if not self.lengths[row]]
            for members in (fresh, *([row] for row in rows if self.lengths[row])):
                if members:
                    groups.append([Sample(row, len(contexts), int(self.rollout_ids[row])) for row in members])
                    contexts.append(np.concatenate([context, self.completion(members[0])]))
        return contexts, groups

    def left(self, row: int) -> int:
        """Tokens that ``row`` may still get."""
        return int(self.budgets[row] - self.lengths[row])

    def extend(self, row: int, count: int, reason: StopReason | None) -> bool:
        """Notes that ``row`` has ``count`` tokens more, which ``write`` brings, and whether it ended and why.

        Returns whether it did.
        """
        self.lengths[row] += count
        if reason is None and self.lengths[row] == self.budgets[row]:
            reason = StopReason.LENGTH
        self.reasons[row] = reason
        self.finished += reason is not None
        return reason is not None

    def write(self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray, draw: Draw) -> None:
        """Writes the first ``counts [n]`` tokens and numbers of ``draw [n, R]`` to ``rows [n]`` from completion tokens
        ``starts [n]`` on."""
        drawn = np.arange(draw.token.shape[1]) < counts[:, None]
        of, offset = np.nonzero(drawn)
        place = rows[of], starts[of] + offset
        self.tokens[place] = draw.token[drawn]
        for name, values in self.numbers.items():
            values[place] = getattr(draw, name)[drawn]

    def cut(self, row: int, new: np.ndarray) -> int | None:
        """How many of the tokens ``new``, which come next in ``row``, a stop string leaves; ``None`` without one."""
        if not self.params.stop_strings or not len(new):
            return None
        seen = self.lengths[row]
        look_back = max(len(text.encode()) for text in self.params.stop_strings) + _SPARE_TOKENS
        earlier = self.tokens[row, max(0, seen - look_back) : seen].tolist()
        ids = earlier + new.tolist()
        if not self._has_stop(ids):
            return None
        return next(count for count in range(1, len(new) + 1) if self._has_stop(ids[: len(earlier) + count]))

    def _has_stop(self, ids: list[int]) -> bool:
        assert self.detokenize is not None  # as stop strings want it
        text = self.detokenize(ids)
        return any(stop in text for stop in self.params.stop_strings)

    def completion(self, row: int) -> np.ndarray:
        return self.tokens[row, : self.lengths[row]]

    def rollouts(self, counters: Counters) -> Rollouts:
        """The result, once every row is complete."""
        requests = [self.requests[index] for index in self.prompt_index.tolist()]
        reasons = [reason for reason in self.reasons if reason is not None]
        assert len(reasons) == len(requests), "a row is not complete"
        return Rollouts(
            rollout_ids=self.rollout_ids,
            prompt_index=self.prompt_index,
            prompt_ids=[np.asarray(request.prompt_ids, np.int32) for request in requests],
            tokens=self.tokens,
            lengths=self.lengths,
            logprobs=self.numbers["logprob"],
            entropies=self.numbers["entropy"],
            stop_reasons=reasons,
            prefix_ids=[np.asarray(request.prefix_ids, np.int32) for request in requests],
            full_logprobs=self.numbers["full_logprob"],
            filter_logprob_mass=self.numbers["filter_logprob_mass"],
            counters=counters,
        )
