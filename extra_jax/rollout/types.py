"""What goes into the sampler and what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from extra_jax import columns


class StopReason(StrEnum):
    STOP_TOKEN = "stop_token"
    LENGTH = "length"
    STOP_STRING = "stop_string"


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. ``temperature == 0`` is greedy; ``top_k == 0`` and ``min_p == 0`` are off.

    A completion ends with the token that completes one of ``stop_strings`` in its text, and keeps that token.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_completion_length: int = 1024
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt and how many samples to draw for it.

    Attributes:
        prompt_ids: Token ids, with the chat template and generation prompt applied.
        num_samples: Completions to draw (the group).
        rollout_id: Identity of the first sample; sample ``i`` has ``rollout_id + i``. Together with seed,
            step and position it determines every draw (docs/design.md, decision 6).
        prefix_ids: The beginning of the answer, given: every sample continues after it. It counts towards
            ``max_completion_length``. To branch from a rollout at a position, give its prompt and its first tokens.
        noise: Two 32-bit numbers. The draws of sample ``i`` depend on the first of them in the place of the step, and
            on the second one plus ``i`` in the place of ``rollout_id + i``. Default: step and ``rollout_id``.
        drafts: Per sample, tokens that it may begin with; none where there are fewer of them than samples. One pass
            checks them: what decoding would draw as well is kept, and decoding goes on from there.
    """

    prompt_ids: Sequence[int]
    num_samples: int
    rollout_id: int
    prefix_ids: Sequence[int] = ()
    noise: tuple[int, int] | None = None
    drafts: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class Counters:
    """What one call of ``generate`` cost in this process."""

    tokens: int = 0  # decoded and kept
    slot_steps: int = 0  # decode steps times the rows of the program, live or not; what the device computed
    prefilled: int = 0  # context tokens whose keys and values were computed, padding left out
    seconds: float = 0.0  # wall clock
    host_seconds: float = 0.0  # of them, not waiting for the device
    drafts: int = 0  # completions that had one
    kept_whole: int = 0  # drafts that are the completion, so that nothing was decoded
    kept_tokens: int = 0  # that the check of the drafts drew, and decoding did not have to

    def __add__(self, other: "Counters") -> "Counters":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Counters(*(one + another for one, another in pairs))

    @property
    def occupancy(self) -> float:
        """Share of what the device drew that was kept."""
        return self.tokens / max(self.slot_steps, 1)


@dataclass(frozen=True)
class Rollouts:
    """Completions on the host, ``R`` rows in request order (the samples of a request are adjacent).

    Attributes:
        rollout_ids: ``[R]`` int64.
        prompt_index: ``[R]`` int32, index of the request a row belongs to.
        prompt_ids: Per row, the prompt's token ids.
        tokens: ``[R, C]`` int32 completion tokens; exactly one stop token is kept where one was drawn.
            Entries from ``lengths`` on are meaningless.
        lengths: ``[R]`` int32, completion tokens including the stop token, without the prefix.
        logprobs: ``[R, C]`` f32, log-probability under the sampling distribution (temperature and filters
            applied), natural log.
        entropies: ``[R, C]`` f32 nats, of the full vocabulary at temperature 1, before the token was drawn.
        stop_reasons: Per row.
        prefix_ids: Per row, the given beginning of the answer.
        full_logprobs: ``[R, C]`` f32, log-probability at temperature 1 over the full vocabulary.
        filter_logprob_mass: ``[R, C]`` f32, logarithm of the probability mass at the sampling temperature that top-k,
            top-p and min-p keep; 0 without them. A learner that knows only the temperature computes
            ``logprobs + filter_logprob_mass``.
        counters: of the call.
    """

    rollout_ids: np.ndarray
    prompt_index: np.ndarray
    prompt_ids: list[np.ndarray]
    tokens: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    entropies: np.ndarray
    stop_reasons: list[StopReason]
    prefix_ids: list[np.ndarray]
    full_logprobs: np.ndarray
    filter_logprob_mass: np.ndarray
    counters: Counters = Counters()

    def __len__(self) -> int:
        return len(self.rollout_ids)

    def completion_ids(self, row: int) -> np.ndarray:
        """``[length]`` token ids of one row, the stop token included, without the prefix."""
        return self.tokens[row, : self.lengths[row]]

    def context_ids(self, row: int) -> np.ndarray:
        """Prompt and prefix of one row: what its completion continues, and what is never in a loss."""
        return np.concatenate([self.prompt_ids[row], self.prefix_ids[row]])

    def take(self, rows: np.ndarray) -> "Rollouts":
        """Only these rows, in this order; prompts are numbered anew by where they first occur."""
        kept = columns.take({name: column for name, column in vars(self).items() if name != "counters"}, rows)
        _, first, index = np.unique(kept["prompt_index"], return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        return Rollouts(**kept | {"prompt_index": rank[index].astype(np.int32)}, counters=self.counters)

    @staticmethod
    def join(parts: Sequence["Rollouts"]) -> "Rollouts":
        """One after the other, as if the requests had been those of one call."""
        starts = np.cumsum([0, *(part.prompt_index.max(initial=-1) + 1 for part in parts[:-1])])
        index = [part.prompt_index + start for part, start in zip(parts, starts, strict=True)]
        counters = sum((part.counters for part in parts), Counters())
        joined = columns.join([{n: c for n, c in vars(part).items() if n != "counters"} for part in parts])
        return Rollouts(**joined | {"prompt_index": np.concatenate(index).astype(np.int32)}, counters=counters)

    @property
    def completion_mask(self) -> np.ndarray:
        """``[R, C]`` bool; 1 marks a real completion token (never derived from token ids: EOS may equal PAD)."""
        return np.arange(self.tokens.shape[1])[None, :] < self.lengths[:, None]

    @property
    def truncated(self) -> np.ndarray:
        """``[R]`` bool; 1 marks a completion that hit its length cap."""
        return np.array([reason is StopReason.LENGTH for reason in self.stop_reasons], bool)
