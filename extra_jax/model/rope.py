"""Rotary embedding."""

import jax
import jax.numpy as jnp

from extra_jax.model.rope_scaling import RopeScaling


def rope(positions: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | None) -> jax.Array:
    """Cosines and sines of the angles of the rotary embedding, ``[2, B, T, 1, H/2]``, f32; once for all layers."""
    frequencies = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is not None:
        frequencies = scaling.scale(frequencies, theta)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    turns = jnp.stack([jnp.cos(angles), jnp.sin(angles)])
    if scaling is not None:
        turns *= scaling.magnitude
    # else XLA computes them again for every head of every layer, where they are added to something
    return jax.lax.optimization_barrier(turns)


def rotate(x: jax.Array, rope: jax.Array) -> jax.Array:
    """Rotates ``x [B, T, heads, H]``, in f32; halves are paired as Qwen and Llama pair them in transformers."""
    cos, sin = rope
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
