"""The policy as its own encoder (b.2, ``policy_hidden``): over which tokens its last hidden states are averaged.

The states themselves come out of the learner's scoring pass (``learn.grpo.Learner.scored``).
"""

from bisect import bisect_left

import numpy as np

from extra_jax.config import NoveltyConfig
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.rollout.types import Rollouts

_THOUGHT = "</think>"


def token_spans(rollouts: Rollouts, tokenizer: Tokenizer, config: NoveltyConfig) -> np.ndarray:
    """``[R, 2]`` int64: first completion token of the text that novelty looks at, and the one behind its last.

    The same text as ``encoders.novelty_text`` shows to an encoder of texts; the part behind ``</think>`` may be empty.

    Args:
        rollouts: ``R`` completions.
        tokenizer: of the policy.
        config: ``text_span`` and ``span_tokens``.
    """
    ends = np.asarray(rollouts.lengths, np.int64)
    starts = np.zeros_like(ends)
    if config.text_span == "last":
        starts = np.maximum(ends - config.span_tokens, 0)
    elif config.text_span == "after_think":
        starts = np.array([_after_thought(rollouts.completion_ids(row), tokenizer) for row in range(len(rollouts))])
    return np.stack([starts, ends], axis=1)


def _after_thought(tokens: np.ndarray, tokenizer: Tokenizer) -> int:
    """Tokens up to the end of the last ``</think>``; 0 where there is none."""

    def seen(count: int) -> int:
        return tokenizer.decode(tokens[:count].tolist()).count(_THOUGHT)

    return bisect_left(range(len(tokens) + 1), seen(len(tokens)), key=seen)
