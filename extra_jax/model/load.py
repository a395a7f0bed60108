"""The model that a configuration asks for: its structure and its sharded parameters."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from extra_jax.config import ModelConfig
from extra_jax.model.config import Qwen3Config, model_folder, preset
from extra_jax.model.hf import abstract_params, load_params
from extra_jax.model.qwen3 import Qwen3
from extra_jax.parallel.sharding import TRAIN, ShardingRules, param_shardings


class Model(NamedTuple):
    """A model taken apart, as jitted programs want it: ``nnx.merge(graphdef, params)`` puts it together.

    Attributes:
        graphdef: structure, shape and remat policy; static and hashable.
    """

    graphdef: nnx.GraphDef
    params: nnx.State
    config: Qwen3Config


def build_model(model: ModelConfig, mesh: Mesh, rules: ShardingRules = TRAIN, seed: int = 0) -> Model:
    """Loads ``model.path``, or draws the random weights of ``model.preset``, straight into the layout of ``rules``.

    Random weights are made by one program whose outputs are sharded, so that no device ever holds all of them;
    they depend on ``seed`` and not on the mesh.

    Raises:
        ExtraError: a folder that is not a whole Qwen3, an unknown preset, or an axis that the mesh does not divide.
    """
    folder = None if model.path is None else model_folder(model.path)
    config = preset(model.preset) if folder is None else Qwen3Config.from_folder(folder)
    graphdef, abstract = abstract_model(config, model)
    if folder is None:
        draw = _drawing_program(config, model.param_dtype, mesh, rules)
        return Model(graphdef, draw(np.uint32(seed % 2**32)), config)
    shardings = param_shardings(abstract, mesh, rules)
    return Model(graphdef, load_params(folder, config, shardings, model.param_dtype), config)


@functools.lru_cache(maxsize=8)
def _drawing_program(
    config: Qwen3Config, dtype: str, mesh: Mesh, rules: ShardingRules
) -> Callable[[np.uint32], nnx.State]:
    """Seed -> random parameters in their layout; compiled once for each model and mesh."""

    def draw(seed: jax.Array) -> nnx.State:
        return nnx.state(Qwen3(config, rngs=nnx.Rngs(jax.random.key(seed)), param_dtype=dtype))

    return jax.jit(draw, out_shardings=param_shardings(abstract_params(config, dtype), mesh, rules))


def abstract_model(config: Qwen3Config, model: ModelConfig, *, scan: bool = True) -> tuple[nnx.GraphDef, nnx.State]:
    """Structure, and shapes and dtypes of the parameters; nothing is computed."""

    def make() -> Qwen3:
        return Qwen3(config, rngs=nnx.Rngs(0), param_dtype=model.param_dtype, remat=model.remat, scan=scan)

    return nnx.split(nnx.eval_shape(make))
