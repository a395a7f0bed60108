"""A model without its parameters: what the sampler gets of them."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from extra_jax.config import MeshConfig, config_from_dict
from extra_jax.model.config import preset
from extra_jax.parallel.mesh import make_mesh
from extra_jax.runtime import Runtime


@pytest.mark.parametrize(
    ("layers", "dtype", "shared"), [(9, "float32", True), (9, "bfloat16", False), (8, "float32", False)]
)
def test_the_sampler_shares_parameters_that_it_would_only_copy(layers, dtype, shared):
    """One device, the same dtype, and layers that both stack."""
    config = config_from_dict({"model": {"preset": "tiny"}, "rollout": {"dtype": dtype}})
    shape, mesh = (
        dataclasses.replace(preset("tiny"), num_hidden_layers=layers),
        make_mesh(MeshConfig(), jax.devices()[:1]),
    )
    runtime = Runtime(config, mesh, shape, None, None)
    params = nnx.State({"embed": nnx.Param(jnp.ones((4, 2)), axes=("vocab", "embed"))})
    weights = runtime.rollout_weights(params)
    assert (weights is params) is shared
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {jnp.dtype(dtype)}
