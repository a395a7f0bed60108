"""Drafts: what completions may begin with, checked in one pass over whole sequences instead of token by token.

A draw is a function of the logits and of its identity alone, so a teacher-forced pass over a draft computes at every
position what decoding would draw there. Up to the first difference that is the draft. What is drawn at the difference
is known, too; from there on somebody has to decode (docs/methods/reuse.md).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from extra_jax.errors import ExtraError
from extra_jax.learn.batch import Example, pack_rows, packed_targets
from extra_jax.learn.packing import best_fit, bucket, shares_contexts
from extra_jax.learn.score import chunk_length
from extra_jax.model.config import Qwen3Config
from extra_jax.model.numerics import ROUND_AS_WRITTEN
from extra_jax.model.qwen3 import Qwen3
from extra_jax.parallel.processes import allgather, to_global, to_local
from extra_jax.parallel.sharding import batch_ways, constrain
from extra_jax.rollout.output import Output
from extra_jax.rollout.programs import Sizes
from extra_jax.rollout.sampling import Draw, row_keys, sample
from extra_jax.rollout.session import Finished
from extra_jax.rollout.types import Counters, SamplingParams, StopReason

TOKENS = 4096
"""That a shard checks at once, in rows that are not longer."""

_LANES = 128  # a longer row is a multiple of this, as kernels want it

_logger = logging.getLogger("extra_jax")


def row_length(sizes: Sizes, longest: int) -> int:
    """Tokens of the rows that hold sequences of up to ``longest``."""
    length = sizes.capacity_for(longest)
    return length if length <= _LANES else -(-length // _LANES) * _LANES


def rows_at_once(length: int) -> int:
    """Rows of this length that a shard checks at once, where there are enough."""
    return max(1, TOKENS // length)


class Rows(NamedTuple):
    """Packed rows with drafts, ``[B, T]`` each; the first four columns are those of ``TokenBatch``."""

    tokens: Any
    positions: Any
    segment_ids: Any
    contexts: Any
    noise: Any  # uint32, with the next one the identity of the draw that the token of a draft stands for
    rollout_id: Any  # uint32
    drafted: Any  # bool, 1 marks a token of a draft


def draws(model: Qwen3, rows: Rows, seed: int, *, params: SamplingParams, dtype: str) -> Draw:
    """What decoding would draw in the place of every token of a draft, ``[B, T]`` each; elsewhere zeros.

    As in the learner, only the positions that count go through the head, a chunk at a time: ``[B, T, V]`` never exists.

    Args:
        model: in the rollout layout.
        rows: no row begins with a token of a draft.
        seed: static, as are the keywords.
    """
    shape, mesh = rows.tokens.shape, jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else batch_ways(mesh)
    hidden, _ = model(rows.tokens, rows.positions, segment_ids=rows.segment_ids, contexts=rows.contexts, dtype=dtype)

    def by_shard(x: jax.Array) -> jax.Array:
        return constrain(x.reshape(shards, -1, *x.shape[2:]), "batch", *[None] * (x.ndim - 1))

    # The state of a token predicts the next one: what describes a draw moves to where it is made.
    drafted, noise, ids, position = (
        by_shard(jnp.roll(x, -1, axis=1)) for x in (rows.drafted, rows.noise, rows.rollout_id, rows.positions)
    )
    order = jnp.argsort(~drafted, axis=1, stable=True)  # to the front of their shard
    size = order.shape[1]
    chunk = chunk_length(size, model.config.vocab_size)
    padding = ((0, 0), (0, -size % chunk))

    def front(x: jax.Array) -> jax.Array:
        at = order.reshape(*order.shape, *[1] * (x.ndim - 2))
        return jnp.pad(jnp.take_along_axis(x, at, axis=1), padding + ((0, 0),) * (x.ndim - 2))

    columns = front(by_shard(hidden)), front(noise), front(ids), front(position)

    def step(index: jax.Array, drawn: Draw) -> Draw:
        def part(x: jax.Array) -> jax.Array:
            x = jax.lax.dynamic_slice_in_dim(x, index * chunk, chunk, axis=1)
            return x.reshape(-1, *x.shape[2:])

        hidden, noise, ids, position = map(part, columns)
        logits = constrain(model.logits(hidden), "batch", "vocab")
        new = sample(logits, row_keys(seed, noise, ids), position, params)
        return jax.tree.map(
            lambda all, x: jax.lax.dynamic_update_slice_in_dim(all, x.reshape(shards, -1), index * chunk, axis=1),
            drawn,
            new,
        )

    zeros = constrain(jnp.zeros((shards, size + padding[1][1]), jnp.float32), "batch", None)
    blank = Draw(zeros.astype(jnp.int32), zeros, zeros, zeros, zeros)
    drawn = jax.lax.fori_loop(0, -(-jnp.max(jnp.sum(drafted, axis=1)) // chunk), step, blank)
    inverse = jnp.argsort(order, axis=1)

    def in_rows(x: jax.Array) -> jax.Array:
        x = jnp.where(drafted, jnp.take_along_axis(x, inverse, axis=1), 0).reshape(shape)
        return jnp.roll(constrain(x, "batch", None), 1, axis=1)

    return jax.tree.map(in_rows, drawn)


@dataclass(frozen=True)
class _Draft:
    """What row ``row`` of the result may begin with."""

    row: int
    example: Example


class Verifier:
    """Checks the drafts of a call before anything is decoded. Arguments are those of ``engine.Sampler``."""

    def __init__(
        self,
        model_config: Qwen3Config,
        graphdef: nnx.GraphDef,
        mesh: Mesh,
        sizes: Sizes,
        *,
        params: SamplingParams,
        stop_ids: Sequence[int],
        seed: int,
        dtype: str,
    ):
        self.mesh, self.sizes, self.params, self.stop_ids = mesh, sizes, params, np.array(stop_ids)

        def check(weights: nnx.State, rows: Rows) -> Draw:
            _logger.info("compiling verify: %d rows of %d tokens", *rows.tokens.shape)
            return draws(nnx.merge(graphdef, weights), rows, seed, params=params, dtype=dtype)

        self.program = jax.jit(check, compiler_options=ROUND_AS_WRITTEN)

    def __call__(self, weights: nnx.State, step: int, output: Output, finished: Finished | None) -> Counters:
        """Begins the rows of ``output`` with what their drafts have in common with what decoding would draw.

        All processes call it together. ``finished`` is called with every row that is complete.

        Returns:
            ``drafts``, ``kept_whole`` and ``kept_tokens`` of this process.
        """
        drafts = _drafts(output)
        longest = int(allgather(np.array([max((len(draft.example) for draft in drafts), default=0)])).max())
        if not longest:
            return Counters()
        length = row_length(self.sizes, longest)
        examples, share = [draft.example for draft in drafts], shares_contexts(length)
        targets = packed_targets(examples, length, share_contexts=share)
        rows = self._pack(drafts, targets, output.identities(step), length, share)
        local = self.sizes.shards // jax.process_count()
        most = int(allgather(np.array([-(-len(rows.tokens) // local)])).max())  # rows of a shard
        at_once = local * (size := min(bucket(most), rows_at_once(length)))
        calls = -(-most // size)
        rows = jax.tree.map(lambda x: np.pad(x, ((0, calls * at_once - len(x)), (0, 0))), rows)
        parts = []
        for start in range(0, len(rows.tokens), at_once):
            part = jax.tree.map(lambda x, start=start: x[start : start + at_once], rows)
            parts.append(self.program(weights, to_global(self.mesh, part)))
        drawn = jax.tree.map(lambda *x: np.concatenate(x), *map(to_local, parts))
        sizes = np.array([len(draft.example.target) for draft in drafts], np.int64)
        place = np.minimum(targets[:, 2:] + np.arange(sizes.max(initial=0)), length - 1)
        new = Draw(*(x[targets[:, :1], place] for x in drawn))  # [drafts, longest]
        sure = [self._sure(draft, new, number, step, output) for number, draft in enumerate(drafts)]
        kept = np.array([count for count, _ in sure], np.int64)
        written = np.array([draft.row for draft in drafts], np.int64)
        output.write(written, np.zeros_like(kept), kept, new)
        whole = 0
        for draft, size, (count, reason) in zip(drafts, sizes, sure, strict=True):
            if output.extend(draft.row, count, reason):
                whole += count == size
                if finished:
                    finished(draft.row, output.completion(draft.row))
        return Counters(drafts=len(drafts), kept_whole=int(whole), kept_tokens=int(kept.sum()))

    def _pack(
        self, drafts: Sequence[_Draft], targets: np.ndarray, identities: np.ndarray, length: int, share: bool
    ) -> Rows:
        """Rows of this process, as few as hold the drafts."""
        examples = [draft.example for draft in drafts]
        shared = [example.shared for example in examples] if share else None
        layout = best_fit(list(map(len, examples)), length, shared)
        batch = pack_rows(examples, layout, length, len(layout), share_contexts=share)
        noise, ids = np.zeros((2, *batch.tokens.shape), np.uint32)
        for draft, (row, _, start) in zip(drafts, targets, strict=True):
            at = slice(start, start + len(draft.example.target))
            noise[row, at], ids[row, at] = identities[draft.row]
        return Rows(batch.tokens, batch.positions, batch.segment_ids, batch.contexts, noise, ids, batch.weights > 0)

    def _sure(self, draft: _Draft, new: Draw, number: int, step: int, output: Output) -> tuple[int, StopReason | None]:
        """How many tokens of draw ``number`` of ``new`` the row begins with, and what ended it, but for its length."""
        target = draft.example.target
        drawn = np.asarray(new.token[number, : len(target)])
        differs = np.flatnonzero(drawn != target)
        count = int(differs[0]) + 1 if len(differs) else len(target)
        if not np.isfinite(new.entropy[number, :count]).all():
            raise ExtraError(
                f"rollout {output.rollout_ids[draft.row]} of step {step}: logits of its draft are not finite; the "
                "weights of this step are broken"
            )
        stops = np.flatnonzero(np.isin(drawn[:count], self.stop_ids))
        reason = StopReason.STOP_TOKEN if len(stops) else None
        count = int(stops[0]) + 1 if len(stops) else count
        if (cut := output.cut(draft.row, drawn[:count])) is not None:
            reason = reason if cut == count and reason else StopReason.STOP_STRING
            count = cut
        return count, reason


def _drafts(output: Output) -> list[_Draft]:
    """Of all rows that have one, as long as a completion may be."""
    drafts = []
    for row, number in enumerate(output.prompt_index.tolist()):
        request, place = output.requests[number], int(output.sample[row])
        if place < len(request.drafts) and len(request.drafts[place]):
            context = np.array([*request.prompt_ids, *request.prefix_ids], np.int32)
            target = np.asarray(request.drafts[place][: output.left(row)], np.int32)
            drafts.append(_Draft(row, Example(context, target, weight=1.0)))
    return drafts
