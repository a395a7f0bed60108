"""Rollouts -> the arrays that the learner sees."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from extra_jax.config import Config
from extra_jax.parallel.processes import allgather
from extra_jax.rollout.types import Rollouts


class TokenBatch(NamedTuple):
    """Rows of tokens; everything is aligned on the token it speaks about. ``B`` rows of ``T`` tokens.

    Attributes:
        tokens: ``[B, T]`` int32.
        positions: ``[B, T]`` int32, position in the token's own sequence.
        segment_ids: ``[B, T]`` int32; 0 is padding.
        completion_mask: ``[B, T]`` bool; 1 marks a token of the completion, which the loss is about. Prompt
            tokens are context.
        sampling_logprobs: ``[B, T]`` f32, as the sampler reported them; 0 outside the completion.
        advantages: ``[B, T]`` f32, the advantage of the token's sequence; 0 outside the completion.
        old_logprobs: ``[B, T]`` f32, of the policy before the first update on this batch; ``None`` when there is
            only one update, where old and new are the same.
        ref_logprobs: ``[B, T]`` f32, of the reference model; ``None`` when ``beta == 0``.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    completion_mask: np.ndarray
    sampling_logprobs: np.ndarray
    advantages: np.ndarray
    old_logprobs: np.ndarray | None = None
    ref_logprobs: np.ndarray | None = None


def row_length(longest: int, cap: int) -> int:
    """Length of rows that hold ``longest`` tokens: the next of 32, 48, 64, 96, 128, ..., at most ``cap``.

    A handful of shapes for a whole run, so that the learner compiles a handful of times.
    """
    size = 32
    while size < longest:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return min(size, cap)


def pad_rows(sequences: list[np.ndarray], completion_starts: list[int], length: int) -> TokenBatch:
    """One sequence a row, right-padded to ``length``; log-probabilities and advantages are zero.

    Args:
        sequences: token ids of prompt and completion.
        completion_starts: per row, the index of the first completion token.
        length: at least the longest sequence.
    """
    shape = (len(sequences), length)
    tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask = np.zeros(shape, bool)
    for row, (sequence, start) in enumerate(zip(sequences, completion_starts, strict=True)):
        tokens[row, : len(sequence)] = sequence
        segments[row, : len(sequence)] = 1
        mask[row, start : len(sequence)] = True
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), shape)
    zeros = np.zeros(shape, np.float32)
    return TokenBatch(tokens, positions, segments, mask, zeros, zeros)


def rollout_batch(rollouts: Rollouts, advantages: np.ndarray, length: int, *, drop_truncated: bool) -> TokenBatch:
    """Rows of ``length`` tokens from rollouts.

    Args:
        rollouts: ``R`` completions with their prompts.
        advantages: ``[R]``, one per completion.
        length: row length, at least the longest prompt and completion together.
        drop_truncated: take completions that hit the length cap out of the loss (``mask_truncated_completions``).
    """
    prompts, rows = rollouts.prompt_ids, range(len(rollouts))
    sequences = [np.concatenate([prompts[r], rollouts.completion_ids(r)]) for r in rows]
    batch = pad_rows(sequences, [len(p) for p in prompts], length)
    logprobs = np.zeros(batch.tokens.shape, np.float32)
    for r in rows:
        start, count = len(prompts[r]), rollouts.lengths[r]
        logprobs[r, start : start + count] = rollouts.logprobs[r, :count]
    mask = batch.completion_mask
    if drop_truncated:
        mask = mask & ~rollouts.truncated[:, None]
    per_token = np.where(mask, np.asarray(advantages)[:, None], 0.0).astype(np.float32)
    return batch._replace(completion_mask=mask, sampling_logprobs=logprobs, advantages=per_token)


def minibatches(rollouts: Rollouts, advantages: np.ndarray, config: Config) -> Iterator[TokenBatch]:
    """This process's rows of each optimizer update: whole groups, prompt ``i`` goes to mini-batch ``i % M``.

    Args:
        rollouts: ``R`` completions of this process.
        advantages: ``[R]``.
        config: of the run.
    """
    cap = config.rollout.max_prompt_length + config.rollout.max_completion_length
    longest = max(len(prompt) + length for prompt, length in zip(rollouts.prompt_ids, rollouts.lengths, strict=True))
    length = row_length(int(allgather(np.array([longest])).max()), cap)
    rows = rollout_batch(rollouts, advantages, length, drop_truncated=config.train.mask_truncated_completions)
    part = rollouts.prompt_index % config.train.num_minibatches
    for index in range(config.train.num_minibatches):
        yield TokenBatch(*(None if column is None else column[part == index] for column in rows))
