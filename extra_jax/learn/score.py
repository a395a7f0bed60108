"""Log-probability and entropy of the tokens in the loss, without ever holding ``[B, T, V]``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from extra_jax.learn.batch import TokenBatch
from extra_jax.model.config import Qwen3Config
from extra_jax.model.numerics import entropy
from extra_jax.model.qwen3 import Qwen3, head_logits
from extra_jax.parallel.sharding import batch_ways, constrain, divides

_CHUNK_LOGITS = 2**25  # logits alive at once (128 MiB in f32) on a data-parallel shard
_TILE = 128  # positions; a chunk is a multiple of the side of a matrix unit where the budget allows

Scores = tuple[jax.Array, jax.Array]
"""Log-probabilities and entropies."""


def token_logprobs(
    model: Qwen3, batch: TokenBatch, *, temperature: float, dtype: str, entropy_gradient: bool = False
) -> Scores:
    """Scores every token in the loss given the tokens before it in its segment: ``hidden_logprobs`` of a forward."""
    hidden = last_hidden(model, batch, dtype)
    return hidden_logprobs(
        model, hidden, batch, temperature=temperature, dtype=dtype, entropy_gradient=entropy_gradient
    )


def last_hidden(model: Qwen3, batch: TokenBatch, dtype: str) -> jax.Array:
    """``[B, T, D]`` what the head is applied to, at every position of the rows."""
    hidden, _ = model(
        batch.tokens, batch.positions, segment_ids=batch.segment_ids, contexts=batch.contexts, dtype=dtype
    )
    return hidden


def span_means(hidden: jax.Array, spans: jax.Array) -> jax.Array:
    """``[B, S, D]`` f32 means of ``hidden [B, T, D]`` over parts of its rows; zeros for an empty part.

    Args:
        hidden: last hidden states.
        spans: ``[B, S, 2]`` int32, first position of each part and the one behind its last.
    """
    position = jnp.arange(hidden.shape[1])
    inside = ((position >= spans[..., :1]) & (position < spans[..., 1:])).astype(jnp.float32)
    highest = jax.lax.Precision.HIGHEST  # or a TPU would round the states to bf16 on their way in
    total = jnp.einsum("bst,btd->bsd", inside, hidden.astype(jnp.float32), precision=highest)
    return constrain(total / jnp.maximum(jnp.sum(inside, axis=2), 1.0)[..., None], "batch", None, None)


def hidden_logprobs(
    model: Qwen3,
    hidden: jax.Array,
    batch: TokenBatch,
    *,
    temperature: float,
    dtype: str,
    entropy_gradient: bool = False,
) -> Scores:
    """Scores every token in the loss given the last hidden state of the token before it.

    Only their positions go through the head: each shard gathers its own to the front and projects a chunk at a time,
    as many chunks as the fullest shard needs. Nothing of a chunk is kept for the backward pass.

    Args:
        model: the policy.
        hidden: ``[B, T, D]``, of ``last_hidden``.
        batch: ``[B, T]`` rows; ``weights`` says which tokens are in the loss, never the first of a row.
        temperature: of the sampling distribution; log-probabilities are of the softmax of ``logits / temperature``.
            0 (greedy) scores at temperature 1.
        dtype: of activations.
        entropy_gradient: whether the gradient goes through the entropies; else they are constants to it.

    Returns:
        Log-probabilities ``[B, T]`` and entropies ``[B, T]`` (nats, at temperature 1) in f32, zero for tokens that
        are not in the loss.
    """
    rows, length = batch.tokens.shape
    layout = _HeadLayout.of_mesh(rows, length, model.config)
    positions = rows * length // layout.shards
    chunk = chunk_length(positions, model.config.vocab_size)
    in_loss = jnp.asarray(batch.mask).at[:, 0].set(False)
    scored = layout.by_shard(jnp.roll(in_loss, -1, axis=1))  # hidden state t predicts token t + 1
    order = jnp.argsort(~scored, axis=1, stable=True)  # those in the loss to the front of their shard
    inverse = jnp.argsort(order, axis=1)
    targets = jnp.take_along_axis(layout.by_shard(jnp.roll(batch.tokens, -1, axis=1)), order, axis=1)
    front = _permute(layout.by_shard(hidden), order, inverse)
    padding = -positions % chunk
    project = partial(_project, layout, model.config, temperature, entropy_gradient)
    scores = _chunked(project, layout, chunk, dtype)(
        model.head,
        jnp.pad(front, ((0, 0), (0, padding), (0, 0))),
        jnp.pad(targets, ((0, 0), (0, padding))),
        -(-jnp.max(jnp.sum(scored, axis=1)) // chunk),
    )

    def in_rows(x: jax.Array) -> jax.Array:
        """``[S, n + padding]`` in the order of the chunks -> ``[B, T]``, each value at the token that it scores."""
        flat = jnp.where(scored, _permute(x[:, :positions], inverse, order), 0.0)
        return jnp.roll(constrain(flat.reshape(rows, length), "batch", None), 1, axis=1)

    return in_rows(scores[0]), in_rows(scores[1])


def shard_vocab_over_fsdp(mesh: Mesh | AbstractMesh, positions: int, vocab_size: int) -> bool:
    """Whether each shard of a replica projects the positions of all of them onto its part of the vocabulary.

    Then positions travel and not the head, and the gradient of the head is whole where it is computed. On more chips
    the head is the smaller of the two, and its size does not grow with them; each then holds all of the head, and of
    its gradient in f32, that ``tensor`` does not split. ``positions`` are those of a replica.
    """
    few = mesh.empty or batch_ways(mesh) == 1 or positions <= vocab_size
    return few and divides(mesh, vocab_size, "wide_vocab")


@dataclass(frozen=True)
class _HeadLayout:
    """Where the head and the positions that go through it lie."""

    shards: int  # `S` parts that rows are split into
    wide: bool  # `shard_vocab_over_fsdp`
    replicas: int  # rows of positions that a matmul sees: the replicas of the model where `wide`, else `S`
    tied: bool  # whether the head is the embedding, [V, D]; else it is [D, V]

    @classmethod
    def of_mesh(cls, rows: int, length: int, config: Qwen3Config) -> "_HeadLayout":
        """That of ``[rows, length]`` positions on the mesh in use."""
        mesh = jax.sharding.get_abstract_mesh()
        shards, ways = (1, 1) if mesh.empty else (batch_ways(mesh), mesh.shape["data"])
        wide = shard_vocab_over_fsdp(mesh, rows // ways * length, config.vocab_size)
        return cls(shards, wide, ways if wide else shards, config.tie_word_embeddings)

    @property
    def axes(self) -> tuple[str, str]:
        """Names of the axes of rows and of the vocabulary in logits."""
        return ("replica", "wide_vocab") if self.wide else ("batch", "vocab")

    def by_shard(self, x: jax.Array) -> jax.Array:
        """``[B, T, ...]`` -> ``[S, B T / S, ...]``."""
        return constrain(x.reshape(self.shards, -1, *x.shape[2:]), "batch", *[None] * (x.ndim - 1))

    def spread_head(self, head: jax.Array) -> jax.Array:
        """The head as chunks use it: split over the shards, or a copy for each of them, ``[S, ...]``."""
        vocab = self.axes[1]
        axes = (vocab, None) if self.tied else (None, vocab)
        if self.wide:
            return constrain(head, *axes)
        return constrain(jnp.broadcast_to(head, (self.shards, *head.shape)), "batch", *axes)

    def collect_head_gradient(self, gradient: jax.Array) -> jax.Array:
        """Of the stored head from that of ``spread_head``: each shard adds up its own before they are added up."""
        axes = ("vocab", "embed") if self.tied else ("embed", "vocab")
        return gradient if self.wide else constrain(jnp.sum(gradient, axis=0), *axes)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _all_gather_rows(layout: _HeadLayout, x: jax.Array) -> jax.Array:
    """``[S, c, D]`` -> the positions of a replica side by side, where every shard sees them."""
    return constrain(x.reshape(layout.replicas, -1, x.shape[-1]), layout.axes[0], None, None)


def _reduce_scatter_rows(layout: _HeadLayout, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    # straight to the shards: the transpose of ``constrain`` would first add it up on all of them
    return (constrain(gradient.reshape(layout.shards, -1, gradient.shape[-1]), "batch", None, None),)


_all_gather_rows.defvjp(lambda layout, x: (_all_gather_rows(layout, x), None), _reduce_scatter_rows)


def _project(
    layout: _HeadLayout,
    config: Qwen3Config,
    temperature: float,
    entropy_gradient: bool,
    head: jax.Array,
    hidden: jax.Array,
    targets: jax.Array,
) -> Scores:
    """Scores ``[S, c]`` of ``targets [S, c]`` given ``hidden [S, c, D]``; ``head`` is that of ``spread_head``."""
    rows_axis, vocab_axis = layout.axes
    if layout.wide:
        logits = head_logits(config, _all_gather_rows(layout, hidden), head)
    else:
        logits = jax.vmap(partial(head_logits, config))(hidden, head)
    logits = constrain(logits, rows_axis, None, vocab_axis)
    scaled = logits / (temperature or 1.0)
    below = scaled - jax.lax.stop_gradient(jnp.max(scaled, axis=-1, keepdims=True))
    chosen = (
        jnp.arange(logits.shape[-1]) == targets.reshape(layout.replicas, -1)[..., None]
    )  # no gather over a split axis
    logprobs = jnp.sum(jnp.where(chosen, below, 0.0), axis=-1) - jnp.log(jnp.sum(jnp.exp(below), axis=-1))
    entropies = entropy(logits) if entropy_gradient else jax.lax.stop_gradient(entropy(logits))
    logprobs, entropies = (constrain(x.reshape(targets.shape), "batch", None) for x in (logprobs, entropies))
    return logprobs, entropies


def _chunked(
    score: Callable[[jax.Array, jax.Array, jax.Array], Scores], layout: _HeadLayout, chunk: int, dtype: str
) -> Callable[[jax.Array, jax.Array, jax.Array, jax.Array], Scores]:
    """``score`` over the first ``count`` chunks of ``hidden [S, n, D]`` and ``targets [S, n]``; zeros after them.

    The backward pass computes each chunk again; the gradient of the head is added up in f32. (``jax.lax.scan`` under
    remat would run every chunk, and add to the gradient of the stored head in each of them.)
    """

    def part(x: jax.Array, index: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, index * chunk, chunk, axis=1)

    def put(x: jax.Array, new: jax.Array, index: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(x, new, index * chunk, axis=1)

    @jax.custom_vjp
    def project(head: jax.Array, hidden: jax.Array, targets: jax.Array, count: jax.Array) -> Scores:
        ready = layout.spread_head(head.astype(dtype))

        def step(index: jax.Array, scores: Scores) -> Scores:
            new = score(ready, part(hidden, index), part(targets, index))
            return put(scores[0], new[0], index), put(scores[1], new[1], index)

        blank = constrain(jnp.zeros(targets.shape, jnp.float32), "batch", None)
        return jax.lax.fori_loop(0, count, step, (blank, blank))

    def forward(head: jax.Array, hidden: jax.Array, targets: jax.Array, count: jax.Array) -> tuple[Scores, tuple]:
        return project(head, hidden, targets, count), (head, hidden, targets, count)

    def backward(saved: tuple, gradient: Scores) -> tuple:
        head, hidden, targets, count = saved
        ready = layout.spread_head(head.astype(dtype))

        def step(index: jax.Array, gradients: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            _, pull = jax.vjp(lambda head, x: score(head, x, part(targets, index)), ready, part(hidden, index))
            of_head, of_hidden = pull((part(gradient[0], index), part(gradient[1], index)))
            return gradients[0] + of_head.astype(jnp.float32), put(gradients[1], of_hidden, index)

        blank = layout.spread_head(jnp.zeros(head.shape, jnp.float32)), jnp.zeros_like(hidden)
        of_head, of_hidden = jax.lax.fori_loop(0, count, step, blank)
        return layout.collect_head_gradient(of_head).astype(head.dtype), of_hidden, None, None

    project.defvjp(forward, backward)
    return project


@jax.custom_vjp
def _permute(x: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    """``x [S, n, ...]`` in the order ``order [S, n]``; with its inverse the gradient is a gather, too."""
    return jnp.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), axis=1)


_permute.defvjp(
    lambda x, order, inverse: (_permute(x, order, inverse), (order, inverse)),
    lambda saved, gradient: (_permute(gradient, saved[1], saved[0]), None, None),
)


def chunk_length(positions: int, vocab_size: int) -> int:
    """Positions of a shard a chunk: as many as keep their logits within the budget, and few enough that the last chunk,
    which is rarely full, wastes little; whole tiles where that can be."""
    fitting = min(_CHUNK_LOGITS // vocab_size, max(positions // 8, _TILE))
    if fitting >= _TILE:
        fitting -= fitting % _TILE
    return max(1, min(positions, fitting))
