"""The identity of weights: any bit changes it, the layout does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from extra_jax.model.fingerprint import fingerprint

MESH = Mesh(np.array(jax.devices()[:1]), ("data",))


def weights(dtype="float32", seed=0):
    generator = np.random.default_rng(seed)
    return {name: jnp.asarray(generator.normal(size=(8, 6)), dtype) for name in ("a", "b")} | {"c": jnp.ones(4, dtype)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_bit_of_any_element_changes_it(dtype):
    before = fingerprint(weights(dtype), MESH)
    kind = jnp.uint32 if dtype == "float32" else jnp.uint16
    seen = {before}
    for name, place in (("a", (0, 0)), ("a", (7, 5)), ("b", (3, 2)), ("c", (3,))):
        changed = weights(dtype)
        bits = jax.lax.bitcast_convert_type(changed[name], kind)
        changed[name] = jax.lax.bitcast_convert_type(bits.at[place].set(bits[place] ^ 1), changed[name].dtype)
        seen.add(fingerprint(changed, MESH))
    assert len(seen) == 5
    assert before == fingerprint(weights(dtype), MESH)


def test_moving_values_changes_it():
    one, other = weights(), weights()
    other["a"], other["b"] = one["b"], one["a"]
    flipped = weights() | {"a": one["a"][::-1]}
    assert len({fingerprint(tree, MESH) for tree in (one, other, flipped)}) == 3


def test_the_layout_does_not_change_it():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "fsdp"))
    spread = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp"))), weights())
    assert fingerprint(spread, mesh) == fingerprint(weights(), MESH)
