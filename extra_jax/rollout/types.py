"""What goes into the sampler and what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np


class StopReason(StrEnum):
    STOP_TOKEN = "stop_token"
    LENGTH = "length"


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. ``temperature == 0`` is greedy; ``top_k == 0`` and ``min_p == 0`` are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_completion_length: int = 1024


@dataclass(frozen=True)
class Request:
    """One prompt and how many samples to draw for it.

    Attributes:
        prompt_ids: Token ids, with the chat template and generation prompt applied.
        num_samples: Completions to draw (the group).
        rollout_id: Identity of the first sample; sample ``i`` has ``rollout_id + i``. Together with seed,
            step and position it determines every draw (design, decision 6).
    """

    prompt_ids: Sequence[int]
    num_samples: int
    rollout_id: int


@dataclass(frozen=True)
class Rollouts:
    """Completions on the host, ``R`` rows in request order (the samples of a request are adjacent).

    Attributes:
        rollout_ids: ``[R]`` int64.
        prompt_index: ``[R]`` int32, index of the request a row belongs to.
        prompt_ids: Per row, the prompt's token ids.
        tokens: ``[R, C]`` int32 completion tokens; exactly one stop token is kept where one was drawn.
            Entries from ``lengths`` on are meaningless.
        lengths: ``[R]`` int32, completion tokens including the stop token.
        logprobs: ``[R, C]`` f32, log-probability under the sampling distribution (temperature and filters
            applied), natural log.
        entropies: ``[R, C]`` f32 nats, of the full vocabulary at temperature 1, before the token was drawn.
        stop_reasons: Per row.
    """

    rollout_ids: np.ndarray
    prompt_index: np.ndarray
    prompt_ids: list[np.ndarray]
    tokens: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    entropies: np.ndarray
    stop_reasons: list[StopReason] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rollout_ids)

    def completion_ids(self, row: int) -> np.ndarray:
        """``[length]`` token ids of one row, the stop token included."""
        return self.tokens[row, : self.lengths[row]]

    @property
    def completion_mask(self) -> np.ndarray:
        """``[R, C]`` bool; 1 marks a real completion token (never derived from token ids: EOS may equal PAD)."""
        return np.arange(self.tokens.shape[1])[None, :] < self.lengths[:, None]

    @property
    def truncated(self) -> np.ndarray:
        """``[R]`` bool; 1 marks a completion that hit its length cap."""
        return np.array([reason is StopReason.LENGTH for reason in self.stop_reasons], bool)
