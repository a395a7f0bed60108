"""Log-probability and entropy of given tokens, without ever holding ``[B, T, V]``."""

import jax
import jax.numpy as jnp

from extra_jax.learn.batch import TokenBatch
from extra_jax.model.qwen3 import Qwen3
from extra_jax.parallel.sharding import batch_ways, constrain
from extra_jax.rollout.sampling import entropy

_CHUNK_LOGITS = 2**25  # logits alive at once (128 MiB in f32) on a data-parallel shard


def token_logprobs(model: Qwen3, batch: TokenBatch, *, temperature: float, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Scores every token of a batch given the tokens before it in its segment.

    The head is applied to a chunk of positions at a time and recomputed in the backward pass.

    Args:
        model: the policy.
        batch: ``[B, T]`` rows.
        temperature: of the sampling distribution; log-probabilities are of the softmax of ``logits / temperature``.
            0 (greedy) scores at temperature 1.
        dtype: of activations.

    Returns:
        Log-probabilities ``[B, T]`` and entropies ``[B, T]`` (nats, at temperature 1) in f32, zero where a token
        starts its segment or is padding.
    """
    rows, length = batch.tokens.shape
    hidden, _ = model(batch.tokens, batch.positions, segment_ids=batch.segment_ids, dtype=dtype)
    targets = jnp.roll(batch.tokens, -1, axis=1)  # the token that hidden state t predicts
    chunk = _chunk_length(rows, length, model.config.vocab_size)
    pad = -length % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, pad)))

    @jax.checkpoint
    def score(hidden: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = constrain(model.logits(constrain(hidden, "batch", None, None)), "batch", None, "vocab")
        scaled = jax.nn.log_softmax(logits / (temperature or 1.0), axis=-1)
        chosen = jnp.take_along_axis(scaled, targets[..., None], axis=-1)[..., 0]
        return chosen, jax.lax.stop_gradient(entropy(logits))

    def chunks(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)

    _, (logprobs, entropies) = jax.lax.scan(lambda _, x: (None, score(*x)), None, (chunks(hidden), chunks(targets)))
    follows = (batch.segment_ids > 0) & (batch.positions > 0)

    def align(x: jax.Array) -> jax.Array:
        flat = jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :length]
        return jnp.where(follows, jnp.roll(flat, 1, axis=1), 0.0)

    return align(logprobs), align(entropies)


def _chunk_length(rows: int, length: int, vocab_size: int) -> int:
    """Positions a chunk: as many as keep the logits of a shard's rows within the budget."""
    mesh = jax.sharding.get_abstract_mesh()
    shard_rows = -(-rows // (1 if mesh.empty else batch_ways(mesh)))
    return max(1, min(length, _CHUNK_LOGITS // (shard_rows * vocab_size)))
