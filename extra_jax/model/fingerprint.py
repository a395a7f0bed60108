"""An identity of weights and of other arrays, whatever their layout: which model was measured, what was saved."""

from collections.abc import Callable, Mapping
from functools import cache

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def fingerprint(params: nnx.State, mesh: Mesh) -> str:
    """16 hexadecimal digits that change with any bit of any parameter and do not depend on the mesh.

    A sum over all elements of a hash of bits, position and tensor, in integers modulo 2^32, so that the order of the
    summation does not matter. It finds accidents, not forgeries.
    """
    low = high = 0
    for number, value in enumerate(jax.device_get(_program(mesh)(jax.tree.leaves(params)))):
        low = (low + int(value)) % 2**32
        high = (high * 31 + int(value) + number) % 2**32
    return f"{high:08x}{low:08x}"


def checksums(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
    """8 hexadecimal digits for each array, made as those of ``fingerprint``: one changed element always changes them.

    All processes call it together.
    """
    return {name: f"{int(value):08x}" for name, value in jax.device_get(checksum_program(dict(arrays))).items()}


@jax.jit
def checksum_program(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """What ``checksums`` runs."""
    return {name: _checksum(x, 0) for name, x in arrays.items()}


@cache
def _program(mesh: Mesh) -> Callable[[list[jax.Array]], list[jax.Array]]:
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda leaves: [_checksum(x, salt) for salt, x in enumerate(leaves)], out_shardings=everywhere)


def _checksum(x: jax.Array, salt: int) -> jax.Array:
    """uint32 scalar of one tensor."""
    bits = lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]).astype(
        jnp.uint32
    )
    position = jnp.full(x.shape, (0x9E3779B9 * (salt + 1)) % 2**32, jnp.uint32)
    for axis in range(x.ndim):
        position = position * jnp.uint32(0x01000193) + lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    mixed = (bits ^ (position * jnp.uint32(0x85EBCA6B))) * jnp.uint32(0xC2B2AE35)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x27D4EB2F)
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)
