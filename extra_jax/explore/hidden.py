"""The policy as its own encoder: mean of its last hidden state over a completion (b.2, ``policy_hidden``)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from extra_jax.explore.distance import normalise
from extra_jax.parallel.processes import allgather, to_global, to_local
from extra_jax.parallel.sharding import batch_ways
from extra_jax.rollout.types import Rollouts

_SHORTEST = 64  # tokens; lengths come in powers of two from here


class HiddenEncoder:
    """Vectors of completions from a forward pass of the policy; all processes call it together.

    Args:
        graphdef: of the model.
        mesh: of the run.
        rows_per_shard: sequences in one forward on each data-parallel shard.
        dtype: of activations.
    """

    def __init__(self, graphdef: nnx.GraphDef, mesh: Mesh, *, rows_per_shard: int, dtype: str):
        self.mesh, self._rows = mesh, rows_per_shard * batch_ways(mesh) // jax.process_count()

        def run(params: nnx.State, tokens: jax.Array, segments: jax.Array, counted: jax.Array) -> jax.Array:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            model = nnx.merge(graphdef, params)
            hidden, _ = model(tokens, positions, segment_ids=segments, dtype=dtype)
            return mean_hidden(hidden, counted)

        self._run = jax.jit(run)

    def encode(self, params: nnx.State, rollouts: Rollouts) -> np.ndarray:
        """``[R, D]`` f32 of length 1, one vector a completion.

        Args:
            params: of the policy, in the training layout.
            rollouts: of this process.
        """
        rows = len(rollouts)
        contexts = [rollouts.context_ids(row) for row in range(rows)]
        longest = max(len(c) + int(n) for c, n in zip(contexts, rollouts.lengths, strict=True))
        agreed = allgather(np.array([[longest, rows]], np.int64)).max(axis=0)
        width = max(_SHORTEST, 1 << int(agreed[0] - 1).bit_length())
        vectors = []
        for start in range(0, int(agreed[1]), self._rows):
            tokens, segments, counted = (np.zeros((self._rows, width), np.int32) for _ in range(3))
            for place, row in enumerate(range(start, min(start + self._rows, rows))):
                context, completion = contexts[row], rollouts.completion_ids(row)
                end = len(context) + len(completion)
                tokens[place, : len(context)], tokens[place, len(context) : end] = context, completion
                segments[place, :end], counted[place, len(context) : end] = 1, 1
            with jax.set_mesh(self.mesh):
                vectors.append(to_local(self._run(params, *to_global(self.mesh, (tokens, segments, counted)))))
        return normalise(np.concatenate(vectors)[:rows])


def mean_hidden(hidden: jax.Array, counted: jax.Array) -> jax.Array:
    """``[B, D]`` f32 mean of ``hidden [B, T, D]`` where ``counted [B, T]`` is 1; zeros where it is nowhere."""
    weights = counted.astype(jnp.float32)[..., None]
    total = jnp.sum(hidden.astype(jnp.float32) * weights, axis=1)
    return total / jnp.maximum(jnp.sum(weights, axis=1), 1.0)
