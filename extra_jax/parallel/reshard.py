"""Weights from the training layout to the rollout layout: one program, run once per rollout phase."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from extra_jax.parallel.sharding import ROLLOUT, ShardingRules, param_shardings


def reshard_program(
    params: nnx.State,
    mesh: Mesh,
    rules: ShardingRules = ROLLOUT,
    dtype: str | jnp.dtype = "bfloat16",
    *,
    unstack: bool = False,
) -> Any:
    """A jitted function that casts parameters to ``dtype`` and lays them out by ``rules``.

    The cast comes first, so that half the bytes travel. It is compiled once per layout; its argument stays valid.

    Args:
        params: arrays like those that it will be called with, or only their shapes.
        unstack: make them those of a ``Qwen3`` with a list of layers (``scan=False``).

    Raises:
        ExtraError: an axis that the mesh does not divide.
    """
    leaves, treedef = jax.tree.flatten(params)
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return _program(treedef, shapes, mesh, rules, jnp.dtype(dtype), unstack)


@functools.lru_cache(maxsize=16)
def _program(
    treedef: Any, shapes: tuple, mesh: Mesh, rules: ShardingRules, dtype: jnp.dtype, unstack: bool
) -> Callable[[nnx.State], nnx.State]:
    def convert(params: nnx.State) -> nnx.State:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        return unstack_layers(params) if unstack else params

    abstract = treedef.unflatten([jax.ShapeDtypeStruct(*shape) for shape in shapes])
    return jax.jit(convert, out_shardings=param_shardings(jax.eval_shape(convert, abstract), mesh, rules))


def unstack_layers(params: nnx.State) -> nnx.State:
    """Parameters of a scanned ``Qwen3`` -> those of one with a list of layers; to be called inside jit."""
    flat = []
    for path, variable in nnx.to_flat_state(params):
        if path[0] != "layers":
            flat.append((path, variable))
            continue
        stack = variable.get_value()
        for index in range(stack.shape[0]):
            layer = variable.replace(stack[index])
            flat.append((("layers", index, *path[1:]), _outputs_first(layer) if path[-1] == "kernel" else layer))
    return nnx.from_flat_state(flat)


def _outputs_first(kernel: nnx.Variable) -> nnx.Variable:
    """The weight of a ``Linear`` as layers that are apart store it: the axes of the result first."""
    value, axes, inputs = kernel.get_value(), kernel.get_metadata()["axes"], kernel.get_metadata()["inputs"]
    value = value.transpose(*range(inputs, value.ndim), *range(inputs))
    return nnx.Param(value, axes=(*axes[inputs:], *axes[:inputs]), inputs=inputs)
