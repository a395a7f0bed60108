"""Sequences on the host -> packed rows on the devices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from extra_jax.learn.packing import best_fit, bucket
from extra_jax.parallel.processes import allgather, to_global
from extra_jax.parallel.sharding import batch_ways

FEWEST_SPANS = 8  # places for parts in a row; more come in powers of two


@dataclass(frozen=True)
class Example:
    """One sequence to learn from.

    Attributes:
        context: ``[c]`` token ids that are only looked at (prompt, injected prefix); at least one.
        target: ``[n]`` token ids that the loss is about.
        weight: of each target token in the loss of the update (``loss.sequence_weights``); 0 leaves the sequence out.
        advantage: of each target token: ``[n]``, or one number for all of them.
        sampling_logprobs: ``[n]`` f32, as the sampler reported them, or ``None``.
        entropy_weights: ``[n]`` (``loss.entropy_weights``), where the loss needs them.
    """

    context: np.ndarray
    target: np.ndarray
    weight: float = 0.0
    advantage: float | np.ndarray = 0.0
    sampling_logprobs: np.ndarray | None = None
    entropy_weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.context) + len(self.target)


class TokenBatch(NamedTuple):
    """Packed rows; everything is aligned on the token it speaks about. Shapes are ``[B, T]``, or ``[M, B, T]`` for
    all ``M`` micro-batches of an update.

    Attributes:
        tokens: int32.
        positions: int32, position of a token in its own sequence.
        segment_ids: int32, which sequence of its row a token belongs to, from 1; 0 is padding.
        weights: f32, weight of a token in the loss; 0 for context and padding.
        advantages: f32.
        sampling_logprobs: f32; 0 where there are none.
        old_logprobs: f32, of the policy before the first update on these rows; ``None`` when there is only one
            update, where old and new are the same.
        ref_logprobs: f32, of the reference model; ``None`` when there is none.
        entropy_weights: f32, weight of a token in the mean entropy, 0 also where the policy gradient leaves it out;
            ``None`` when the loss needs neither.
    """

    tokens: Any
    positions: Any
    segment_ids: Any
    weights: Any
    advantages: Any
    sampling_logprobs: Any
    old_logprobs: Any = None
    ref_logprobs: Any = None
    entropy_weights: Any = None

    @property
    def mask(self) -> jax.Array:
        """Bool; 1 marks a token in the loss."""
        return self.weights > 0


class MicroBatches(NamedTuple):
    """Everything one optimizer update learns from.

    Attributes:
        rows: ``[M, B, T]`` global arrays; micro-batches from ``count`` on are empty.
        count: scalar int32.
    """

    rows: TokenBatch
    count: jax.Array


def micro_batches(
    examples: Sequence[Example],
    row_length: int,
    rows_per_shard: int,
    mesh: Mesh,
    *,
    micro_batch_mean: bool = False,
    entropy_weights: bool = False,
) -> MicroBatches:
    """Packs this process's examples; all processes call it together and get equally many micro-batches.

    Args:
        examples: of this process.
        row_length: ``T``, tokens.
        rows_per_shard: rows of one micro-batch on each data-parallel shard.
        mesh: rows of a micro-batch are split over its data axes.
        micro_batch_mean: replace the weights by those of ``bnpo``: the mean over micro-batches of the mean over
            their tokens. Only here is it known which token is in which micro-batch.
        entropy_weights: whether the loss needs those of the examples.
    """
    layout = best_fit([len(example) for example in examples], row_length)
    rows = rows_per_shard * batch_ways(mesh) // jax.process_count()  # of a micro-batch, on this process
    count = int(allgather(np.array([-(-len(layout) // rows)])).max())
    packed = pack_rows(examples, layout, row_length, bucket(count) * rows, entropy_weights=entropy_weights)
    stacked = TokenBatch(*(x if x is None else x.reshape(-1, rows, row_length) for x in packed))
    if micro_batch_mean:
        tokens = (stacked.weights > 0).sum(axis=(1, 2))
        tokens = allgather(tokens[None]).sum(axis=0).clip(min=1)[:, None, None]
        stacked = stacked._replace(weights=((stacked.weights > 0) / tokens / count).astype(np.float32))
    return MicroBatches(to_global(mesh, stacked, row_axis=1), np.int32(count))


def packed_spans(
    lengths: Sequence[int], spans: np.ndarray, batches: MicroBatches, mesh: Mesh
) -> tuple[jax.Array, np.ndarray]:
    """Where in packed rows a part of each sequence lies; all processes call it together.

    Args:
        lengths: ``[n]`` tokens of the sequences that ``micro_batches`` was given.
        spans: ``[n, 2]`` first token of the part in its sequence, and the one behind its last.
        batches: what ``micro_batches`` made of them.
        mesh: likewise.

    Returns:
        ``[M, B, S, 2]`` global int32 array of the parts in row coordinates, and ``[n, 3]`` index of each sequence's
        part in the ``B`` (rows of this process), ``M`` and ``S`` of it. ``S`` is a power of two, so that few programs
        are compiled.
    """
    count, rows, row_length = batches.rows.tokens.shape
    rows //= jax.process_count()
    layout = best_fit(lengths, row_length)
    most = int(allgather(np.array([max(map(len, layout), default=1)])).max())
    bounds = np.zeros((count * rows, max(FEWEST_SPANS, 1 << (most - 1).bit_length()), 2), np.int32)
    places = np.zeros((len(lengths), 3), np.int64)
    for row, members in enumerate(layout):
        start = 0
        for segment, index in enumerate(members):
            bounds[row, segment] = start + spans[index]
            places[index] = row % rows, row // rows, segment
            start += lengths[index]
    return to_global(mesh, bounds.reshape(count, rows, *bounds.shape[1:]), row_axis=1), places


def pack_rows(
    examples: Sequence[Example],
    layout: list[list[int]],
    row_length: int,
    num_rows: int,
    *,
    entropy_weights: bool = False,
) -> TokenBatch:
    """``[num_rows, row_length]`` numpy rows; rows beyond the layout are empty."""
    shape = (num_rows, row_length)
    ints = [np.zeros(shape, np.int32) for _ in range(3)]
    floats = [np.zeros(shape, np.float32) for _ in range(3)]
    tokens, positions, segments = ints
    weights, advantages, logprobs = floats
    entropy = np.zeros(shape, np.float32) if entropy_weights else None
    for row, members in enumerate(layout):
        start = 0
        for segment, index in enumerate(members, start=1):
            example = examples[index]
            whole = slice(start, start + len(example))
            target = slice(start + len(example.context), whole.stop)
            tokens[row, whole.start : target.start] = example.context
            tokens[row, target] = example.target
            positions[row, whole] = np.arange(len(example))
            segments[row, whole] = segment
            weights[row, target] = example.weight
            advantages[row, target] = example.advantage
            if example.sampling_logprobs is not None:
                logprobs[row, target] = example.sampling_logprobs
            if entropy is not None:
                entropy[row, target] = example.entropy_weights
            start = whole.stop
    return TokenBatch(*ints, *floats, entropy_weights=entropy)
