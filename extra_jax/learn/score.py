"""Log-probability and entropy of the tokens in the loss, without ever holding ``[B, T, V]``."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from extra_jax.learn.batch import TokenBatch
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
    here = jnp.arange(hidden.shape[1])
    inside = ((here >= spans[..., :1]) & (here < spans[..., 1:])).astype(jnp.float32)
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
    mesh = jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else batch_ways(mesh)
    positions = rows // shards * length
    chunk = chunk_length(positions, model.config.vocab_size)
    ways = 1 if mesh.empty else mesh.shape["data"]
    wide = positions_travel(mesh, rows // ways * length, model.config.vocab_size)
    replicas = ways if wide else shards
    rows_axis, vocab_axis = ("replica", "wide_vocab") if wide else ("batch", "vocab")

    @jax.custom_vjp
    def together(x: jax.Array) -> jax.Array:
        """``[S, c, D]`` -> the positions of a replica side by side, where every shard sees them."""
        return constrain(x.reshape(replicas, -1, x.shape[-1]), rows_axis, None, None)

    def apart(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        # straight to the shards: the transpose of ``constrain`` would first add it up on all of them
        return (constrain(gradient.reshape(shards, -1, gradient.shape[-1]), "batch", None, None),)

    together.defvjp(lambda x: (together(x), None), apart)

    def score(head: jax.Array, hidden: jax.Array, targets: jax.Array) -> Scores:
        """``hidden [S, c, D]``, ``targets [S, c]`` -> scores ``[S, c]``."""
        project = partial(head_logits, model.config)
        logits = project(together(hidden), head) if wide else jax.vmap(project)(hidden, head)
        logits = constrain(logits, rows_axis, None, vocab_axis)
        scaled = logits / (temperature or 1.0)
        below = scaled - jax.lax.stop_gradient(jnp.max(scaled, axis=-1, keepdims=True))
        here = jnp.arange(logits.shape[-1]) == targets.reshape(replicas, -1)[..., None]  # no gather over a split axis
        logprobs = jnp.sum(jnp.where(here, below, 0.0), axis=-1) - jnp.log(jnp.sum(jnp.exp(below), axis=-1))
        entropies = entropy(logits) if entropy_gradient else jax.lax.stop_gradient(entropy(logits))
        return tuple(constrain(x.reshape(targets.shape), "batch", None) for x in (logprobs, entropies))

    def place(head: jax.Array) -> jax.Array:
        """As the chunks use it: split over the shards, or a copy for each of them, ``[S, ...]``."""
        axes = (vocab_axis, None) if model.config.tie_word_embeddings else (None, vocab_axis)
        if wide:
            return constrain(head, *axes)
        return constrain(jnp.broadcast_to(head, (shards, *head.shape)), "batch", *axes)

    def collect(gradient: jax.Array) -> jax.Array:
        """Of the stored head from what ``place`` gave: each shard adds up its own before they are added up."""
        axes = ("vocab", "embed") if model.config.tie_word_embeddings else ("embed", "vocab")
        return gradient if wide else constrain(jnp.sum(gradient, axis=0), *axes)

    def by_shard(x: jax.Array) -> jax.Array:
        return constrain(x.reshape(shards, -1, *x.shape[2:]), "batch", *[None] * (x.ndim - 1))

    in_loss = jnp.asarray(batch.mask).at[:, 0].set(False)
    scored = by_shard(jnp.roll(in_loss, -1, axis=1))  # hidden state t predicts token t + 1
    order = jnp.argsort(~scored, axis=1, stable=True)
    back = jnp.argsort(order, axis=1)
    targets = jnp.take_along_axis(by_shard(jnp.roll(batch.tokens, -1, axis=1)), order, axis=1)
    front = _permute(by_shard(hidden), order, back)
    padding = -positions % chunk
    told = _chunked(score, place, collect, chunk, dtype)(
        model.head,
        jnp.pad(front, ((0, 0), (0, padding), (0, 0))),
        jnp.pad(targets, ((0, 0), (0, padding))),
        -(-jnp.max(jnp.sum(scored, axis=1)) // chunk),
    )

    def align(x: jax.Array) -> jax.Array:
        flat = jnp.where(scored, _permute(x[:, :positions], back, order), 0.0)
        return jnp.roll(constrain(flat.reshape(rows, length), "batch", None), 1, axis=1)

    return align(told[0]), align(told[1])


def positions_travel(mesh: Mesh | AbstractMesh, positions: int, vocab_size: int) -> bool:
    """Whether each shard of a replica projects the positions of all of them onto its part of the vocabulary.

    Then positions travel and not the head, and the gradient of the head is whole where it is made. On more chips the
    head is the smaller of the two, and its size does not grow with them; each then holds all of the head, and of its
    gradient in f32, that ``tensor`` does not split.
    """
    few = mesh.empty or batch_ways(mesh) == 1 or positions <= vocab_size
    return few and divides(mesh, vocab_size, "wide_vocab")


def _chunked(
    score: Callable[[jax.Array, jax.Array, jax.Array], Scores],
    place: Callable[[jax.Array], jax.Array],
    collect: Callable[[jax.Array], jax.Array],
    chunk: int,
    dtype: str,
) -> Callable[[jax.Array, jax.Array, jax.Array, jax.Array], Scores]:
    """``score`` over the first ``count`` chunks of ``hidden [S, n, D]`` and ``targets [S, n]``; zeros after them.

    The backward pass computes each chunk again; the gradient of the head is added up in f32. ``place`` lays out the
    head and its gradient. (``jax.lax.scan`` under remat would run every chunk, and add to the gradient of the stored
    head in each of them.)
    """

    def part(x: jax.Array, index: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, index * chunk, chunk, axis=1)

    def put(x: jax.Array, new: jax.Array, index: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(x, new, index * chunk, axis=1)

    @jax.custom_vjp
    def project(head: jax.Array, hidden: jax.Array, targets: jax.Array, count: jax.Array) -> Scores:
        ready = place(head.astype(dtype))

        def step(index: jax.Array, told: Scores) -> Scores:
            new = score(ready, part(hidden, index), part(targets, index))
            return put(told[0], new[0], index), put(told[1], new[1], index)

        blank = constrain(jnp.zeros(targets.shape, jnp.float32), "batch", None)
        return jax.lax.fori_loop(0, count, step, (blank, blank))

    def forward(head: jax.Array, hidden: jax.Array, targets: jax.Array, count: jax.Array) -> tuple[Scores, tuple]:
        return project(head, hidden, targets, count), (head, hidden, targets, count)

    def backward(saved: tuple, told: Scores) -> tuple:
        head, hidden, targets, count = saved
        ready = place(head.astype(dtype))

        def step(index: jax.Array, gradients: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            _, pull = jax.vjp(lambda head, x: score(head, x, part(targets, index)), ready, part(hidden, index))
            of_head, of_hidden = pull((part(told[0], index), part(told[1], index)))
            return gradients[0] + of_head.astype(jnp.float32), put(gradients[1], of_hidden, index)

        blank = place(jnp.zeros(head.shape, jnp.float32)), jnp.zeros_like(hidden)
        of_head, of_hidden = jax.lax.fori_loop(0, count, step, blank)
        return collect(of_head).astype(head.dtype), of_hidden, None, None

    project.defvjp(forward, backward)
    return project


@jax.custom_vjp
def _permute(x: jax.Array, order: jax.Array, back: jax.Array) -> jax.Array:
    """``x [S, n, ...]`` in the order ``order [S, n]``, whose inverse is ``back``: the gradient is a gather, too."""
    return jnp.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), axis=1)


_permute.defvjp(
    lambda x, order, back: (_permute(x, order, back), (order, back)),
    lambda saved, gradient: (_permute(gradient, saved[1], saved[0]), None, None),
)


def chunk_length(positions: int, vocab_size: int) -> int:
    """Positions of a shard a chunk: as many as keep their logits within the budget, and few enough that the last chunk,
    which is rarely full, wastes little; whole tiles where that can be."""
    fitting = min(_CHUNK_LOGITS // vocab_size, max(positions // 8, _TILE))
    if fitting >= _TILE:
        fitting -= fitting % _TILE
    return max(1, min(positions, fitting))
