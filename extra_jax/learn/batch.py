"""Sequences on the host -> packed rows on the devices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from extra_jax.learn.packing import Shared, best_fit, bucket, places, shares_contexts
from extra_jax.parallel.processes import allgather, to_global
from extra_jax.parallel.sharding import batch_ways

FEWEST_SPANS = 8  # places for parts in a row; more come in powers of two


@dataclass(frozen=True)
class Example:
    """One sequence to learn from."""

    context: np.ndarray  # [c] token ids that are only looked at (prompt, injected prefix); at least one
    target: np.ndarray  # [n] token ids that the loss is about
    # of each target token in the loss of the update (`loss.sequence_weights`); 0 leaves the sequence out
    weight: float = 0.0
    advantage: float | np.ndarray = 0.0  # of each target token: [n], or one number for all of them
    sampling_logprobs: np.ndarray | None = None  # [n] f32, as the sampler reported them, or `None`
    entropy_weights: np.ndarray | None = None  # [n] (`loss.entropy_weights`), where the loss needs them

    def __len__(self) -> int:
        return len(self.context) + len(self.target)

    @property
    def shared(self) -> Shared:
        """What examples of the same context have in common, and need once: all of it but its last token, whose state
        predicts the first one of each target."""
        return Shared(np.asarray(self.context[:-1], np.int32).tobytes(), len(self.context) - 1)


class TokenBatch(NamedTuple):
    """Packed rows. Index ``t`` of every array describes token ``t``, not the next one. Shapes are ``[B, T]``, or
    ``[M, B, T]`` for all ``M`` micro-batches of an update.

    Attributes:
        tokens: int32.
        positions: int32, position of a token in its own sequence.
        segment_ids: int32, which sequence of its row a token belongs to, from 1; 0 is padding. A context that
            sequences share is one of its own.
        weights: f32, weight of a token in the loss; 0 for context and padding.
        advantages: f32.
        sampling_logprobs: f32; 0 where there are none.
        old_logprobs: f32, of the policy before the first update on these rows; ``None`` when there is only one
            update, where old and new are the same.
        ref_logprobs: f32, of the reference model; ``None`` when there is none.
        entropy_weights: f32, weight of a token in the mean entropy, 0 also where the policy gradient leaves it out;
            ``None`` when the loss needs neither.
        contexts: int32, the other segment that a token sees, which comes before its own in the row: its context; its
            own segment where there is none. ``None`` when no context is shared in any row.
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
    contexts: Any = None

    @property
    def mask(self) -> jax.Array:
        """Bool; 1 marks a token in the loss."""
        return self.weights > 0


class MicroBatches(NamedTuple):
    """Everything one optimizer update learns from. ``count`` is a scalar int32."""

    rows: TokenBatch  # [M, B, T] global arrays; micro-batches from `count` on are empty
    count: jax.Array | np.int32  # type: ignore[assignment]  # hides the method of a tuple


def micro_batches(
    examples: Sequence[Example],
    row_length: int,
    rows_per_shard: int,
    mesh: Mesh,
    *,
    share_contexts: bool = False,
    micro_batch_mean: bool = False,
    entropy_weights: bool = False,
) -> MicroBatches:
    """Packs this process's examples; all processes call it together and get equally many micro-batches.

    Args:
        examples: of this process.
        row_length: ``T``, tokens.
        rows_per_shard: rows of one micro-batch on each data-parallel shard.
        mesh: rows of a micro-batch are split over its data axes.
        share_contexts: a row holds a context once for all of its examples that have it, as those of a group do, unless
            rows are longer than ``packing.MAX_SHARING_ROW``.
        micro_batch_mean: replace the weights by those of ``bnpo``: the mean over micro-batches of the mean over
            their tokens. Only here is it known which token is in which micro-batch.
        entropy_weights: whether the loss needs those of the examples.
    """
    share_contexts = share_contexts and shares_contexts(row_length)
    lengths, shared = _sizes(examples, share_contexts)
    layout = best_fit(lengths, row_length, shared)
    rows = rows_per_shard * batch_ways(mesh) // jax.process_count()  # of a micro-batch, on this process
    count = int(allgather(np.array([-(-len(layout) // rows)])).max())
    packed = pack_rows(
        examples,
        layout,
        row_length,
        bucket(count) * rows,
        share_contexts=share_contexts,
        entropy_weights=entropy_weights,
    )
    stacked = TokenBatch(*(x if x is None else x.reshape(-1, rows, row_length) for x in packed))
    if micro_batch_mean:
        tokens = (stacked.weights > 0).sum(axis=(1, 2))
        tokens = allgather(tokens[None]).sum(axis=0).clip(min=1)[:, None, None]
        stacked = stacked._replace(weights=((stacked.weights > 0) / tokens / count).astype(np.float32))
    return MicroBatches(to_global(mesh, stacked, row_axis=1), np.int32(count))


def packed_targets(examples: Sequence[Example], row_length: int, *, share_contexts: bool = False) -> np.ndarray:
    """``[n, 3]`` row of each example's target among those of this process, which of its row it is, and its first token
    there. Arguments are those of ``micro_batches``."""
    targets = np.zeros((len(examples), 3), np.int64)
    lengths, shared = _sizes(examples, share_contexts and shares_contexts(row_length))
    for row, members in enumerate(best_fit(lengths, row_length, shared)):
        for number, place in enumerate(places(members, lengths, shared)):
            target = place.own + len(examples[place.index].context) - place.shared
            targets[place.index] = row, number, target
    return targets


def packed_spans(
    targets: np.ndarray, spans: np.ndarray, batches: MicroBatches, mesh: Mesh
) -> tuple[jax.Array, np.ndarray]:
    """Where in packed rows a part of each target lies; all processes call it together.

    Args:
        targets: ``[n, 3]`` where they lie, of ``packed_targets``.
        spans: ``[n, 2]`` first token of the part in its target, and the one behind its last.
        batches: what ``micro_batches`` made of the examples.
        mesh: likewise.

    Returns:
        ``[M, B, S, 2]`` global int32 array of the parts in row coordinates, and ``[n, 3]`` index of each target's part
        in the ``B`` (rows of this process), ``M`` and ``S`` of it. ``S`` is a power of two, so that few programs are
        compiled.
    """
    count, rows, _ = batches.rows.tokens.shape
    rows //= jax.process_count()
    row, number, start = targets.T
    most = int(allgather(number.max(initial=0, keepdims=True)).max()) + 1
    bounds = np.zeros((count * rows, max(FEWEST_SPANS, 1 << (most - 1).bit_length()), 2), np.int32)
    bounds[row, number] = start[:, None] + spans
    index = np.stack([row % rows, row // rows, number], axis=1)
    return to_global(mesh, bounds.reshape(count, rows, *bounds.shape[1:]), row_axis=1), index


def pack_rows(
    examples: Sequence[Example],
    layout: list[list[int]],
    row_length: int,
    num_rows: int,
    *,
    share_contexts: bool = False,
    entropy_weights: bool = False,
) -> TokenBatch:
    """``[num_rows, row_length]`` numpy rows of the examples ``layout``; rows beyond the layout are empty."""
    shape = (num_rows, row_length)
    tokens, positions, segments, contexts = (np.zeros(shape, np.int32) for _ in range(4))
    weights, advantages, logprobs = (np.zeros(shape, np.float32) for _ in range(3))
    entropy = np.zeros(shape, np.float32) if entropy_weights else None
    sizes = _sizes(examples, share_contexts)
    for row, members in enumerate(layout):
        context_of: dict[int, int] = {}  # segment of a context by its start
        segment = 0
        for place in places(members, *sizes):
            example, shared = examples[place.index], slice(place.start, place.start + place.shared)
            own = slice(place.own, place.own + len(example) - place.shared)
            target = slice(own.stop - len(example.target), own.stop)
            if place.shared and place.start not in context_of:
                segment += 1
                context_of[place.start] = segment
                tokens[row, shared] = example.context[: place.shared]
                positions[row, shared] = np.arange(place.shared)
                segments[row, shared] = contexts[row, shared] = segment
            segment += 1
            tokens[row, own.start : target.start] = example.context[place.shared :]
            tokens[row, target] = example.target
            positions[row, own] = np.arange(place.shared, len(example))
            segments[row, own] = segment
            contexts[row, own] = context_of[place.start] if place.shared else segment
            weights[row, target] = example.weight
            advantages[row, target] = example.advantage
            if example.sampling_logprobs is not None:
                logprobs[row, target] = example.sampling_logprobs
            if entropy is not None:
                entropy[row, target] = example.entropy_weights
    return TokenBatch(
        tokens,
        positions,
        segments,
        weights,
        advantages,
        logprobs,
        entropy_weights=entropy,
        contexts=contexts if share_contexts else None,
    )


def _sizes(examples: Sequence[Example], share_contexts: bool) -> tuple[list[int], list[Shared] | None]:
    """What packing wants to know."""
    return list(map(len, examples)), [example.shared for example in examples] if share_contexts else None
