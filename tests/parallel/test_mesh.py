"""One model on several meshes: the same numbers, and parameters that really are split as their axes say."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from extra_jax.config import MeshConfig, ModelConfig
from extra_jax.errors import ExtraError
from extra_jax.model import qwen3
from extra_jax.model.config import Qwen3Config
from extra_jax.model.load import abstract_model, build_model
from extra_jax.parallel.mesh import make_mesh, mesh_shape
from extra_jax.parallel.reshard import reshard_program
from extra_jax.parallel.sharding import (
    ROLLOUT,
    TRAIN,
    ShardingRules,
    batch_sharding,
    batch_ways,
    param_shardings,
    replicated,
)

CONFIG = Qwen3Config(96, 64, 128, 4, 8, 4, head_dim=16)
MODEL = ModelConfig(preset="tiny")
BATCH, LENGTH = 8, 16
MESHES = {
    "8x1": MeshConfig(fsdp=8),
    "4x2": MeshConfig(fsdp=4, tensor=2),
    "2x4": MeshConfig(fsdp=2, tensor=4),
}
# What TRAIN makes of each kind of parameter, the stack axis first.
SPECS = {
    "embed": ("tensor", "fsdp"),
    "q_proj": (None, "fsdp", "tensor", None),
    "v_proj": (None, "fsdp", "tensor", None),
    "o_proj": (None, "tensor", None, "fsdp"),
    "gate_proj": (None, "fsdp", "tensor"),
    "down_proj": (None, "tensor", "fsdp"),
    "input_norm": (None, None),
}


@pytest.fixture(scope="module", autouse=True)
def config_of_these_tests():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extra_jax.model.load.preset", lambda name: CONFIG)
        yield


@functools.cache
def _model_on(name: str, seed: int = 3):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if name == "1" else make_mesh(MESHES[name])
    return mesh, build_model(MODEL, mesh, seed=seed)


def _move(params, mesh, rules=TRAIN):
    return jax.device_put(params, param_shardings(params, mesh, rules))


def _by_name(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradient(graphdef, params, tokens, mask):
    """Mean cross-entropy, its gradient, and the logits; rows hold two packed sequences and padding."""

    def loss(params):
        model = nnx.merge(graphdef, params)
        hidden, _ = model(tokens, jnp.arange(LENGTH) % 7 + jnp.zeros_like(tokens), segment_ids=mask)
        logits = model.logits(hidden)
        logprobs = jax.nn.log_softmax(logits[:, :-1])
        chosen = jnp.take_along_axis(logprobs, tokens[:, 1:, None], -1)[..., 0]
        return -(chosen * (mask[:, 1:] > 0)).sum() / (mask[:, 1:] > 0).sum(), logits

    return jax.value_and_grad(loss, has_aux=True)(params)


def _compute(mesh, graphdef, params):
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (BATCH, LENGTH))
    mask = np.broadcast_to(np.repeat([1, 2, 0], [7, 7, 2]), tokens.shape)
    tokens, mask = jax.device_put((tokens, mask), batch_sharding(mesh))
    with jax.set_mesh(mesh):
        return _value_and_gradient(graphdef, params, tokens, mask)


@functools.cache
def _on_one_device():
    mesh, model = _model_on("1")
    return _compute(mesh, model.graphdef, model.params)


@pytest.mark.parametrize("name", MESHES)
def test_forward_and_gradient_agree_across_meshes(name):
    (loss, logits), gradient = _on_one_device()
    mesh = make_mesh(MESHES[name])
    _, model = _model_on("1")
    params = _move(model.params, mesh)
    (other_loss, other_logits), other_gradient = _compute(mesh, model.graphdef, params)
    assert other_logits.sharding.shard_shape(logits.shape)[0] == BATCH // batch_ways(mesh)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(other_logits, logits, rtol=0, atol=1e-5)
    for path, expected in _by_name(gradient).items():
        actual = _by_name(other_gradient)[path]
        scale = np.abs(expected).max()
        assert scale > 0, path
        assert np.abs(np.asarray(actual) - np.asarray(expected)).max() <= 1e-5 * max(scale, 1e-3), path


def test_random_weights_depend_on_the_seed_and_not_on_the_mesh():
    _, one = _model_on("1")
    _, many = _model_on("4x2")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), many.params, one.params)
    assert one.config == many.config == CONFIG
    assert one.graphdef == many.graphdef
    _, other = _model_on("1", seed=2**40 + 4)
    assert (other.params["embed"][...] != one.params["embed"][...]).mean() > 0.99
    kernels = one.params["layers"]["mlp"]["up_proj"]["kernel"][...]
    assert (kernels[0] != kernels[1]).mean() > 0.99


def test_parameters_are_sharded_as_named():
    mesh, model = _model_on("4x2")
    leaves = _by_name(model.params)
    for name, spec in SPECS.items():
        (leaf,) = (leaf for path, leaf in leaves.items() if f"'{name}'" in path)
        assert leaf.sharding.spec == PartitionSpec(*spec), name
        ways = [math.prod(mesh.shape[axis] for axis in ([part] if part else [])) for part in spec]
        expected = tuple(size // way for size, way in zip(leaf.shape, ways, strict=True))
        assert {shard.data.shape for shard in leaf.addressable_shards} == {expected}, name
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves.values())
    norms = sum(leaf.nbytes for path, leaf in leaves.items() if "norm" in path)
    total = sum(leaf.nbytes for leaf in leaves.values())
    assert held == (total - norms) // 8 + norms


# --- rollout layout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_rollout_layout_has_no_fsdp_and_the_same_values(dtype):
    mesh, model = _model_on("4x2")
    rollout = reshard_program(model.params, mesh, ROLLOUT, dtype)(model.params)
    assert jax.tree.structure(rollout) == jax.tree.structure(model.params)
    for path, leaf in _by_name(rollout).items():
        source = _by_name(model.params)[path]
        assert "fsdp" not in jax.tree.leaves(tuple(leaf.sharding.spec)), path
        assert leaf.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(source.astype(dtype)))
    kernel = rollout["layers"]["mlp"]["up_proj"]["kernel"].get_value()
    assert kernel.sharding.shard_shape(kernel.shape) == (4, 64, 64)  # tensor parallel as before


def test_reshard_is_one_program_compiled_once():
    mesh, model = _model_on("4x2")
    reshard_program(model.params, mesh)(model.params)
    from extra_jax.parallel.reshard import _program

    before = _program.cache_info()
    reshard_program(model.params, mesh)(model.params)
    after = _program.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


def test_resharded_weights_outlive_the_ones_they_came_from():
    """The learner donates its parameters; the sampler's are its own, also where nothing had to move."""
    _, model = _model_on("1")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    source = jax.tree.map(jnp.copy, model.params)
    rollout = reshard_program(source, mesh, TRAIN, "float32")(source)
    jax.tree.map(lambda leaf: leaf.delete(), source)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), rollout, model.params)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_axes_that_collide_are_refused():
    with pytest.raises(ExtraError, match=r"\('embed', 'heads', None\) want one mesh axis twice"):
        dataclasses.replace(TRAIN, embed=("tensor",)).spec("embed", "heads", None)
    with pytest.raises(ExtraError, match="twice"):
        ShardingRules(mlp=("fsdp", "tensor")).spec("embed", "mlp")


def test_unknown_axes_are_refused():
    with pytest.raises(ExtraError, match="'head' in"):
        TRAIN.spec("embed", "head")


def test_an_axis_that_the_mesh_does_not_divide_is_named():
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=8))  # four kv heads
    _, abstract = abstract_model(CONFIG, MODEL)
    with pytest.raises(ExtraError, match=r"layers\.attention\.k_proj\.kernel.*: axis of 4 .* tensor.* size 8"):
        param_shardings(abstract, mesh, TRAIN)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 8, 1)),
        (MeshConfig(data=2, tensor=2), (2, 2, 2)),
        (MeshConfig(data=-1, fsdp=4), (2, 4, 1)),
    ],
)
def test_the_free_axis_takes_the_devices_that_are_left(config, shape):
    assert mesh_shape(config, 8) == shape
    mesh = make_mesh(config)
    assert tuple(mesh.shape.values()) == shape
    assert batch_ways(mesh) == shape[0] * shape[1]
    assert replicated(mesh).is_fully_replicated


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(fsdp=3),
        MeshConfig(fsdp=4),
        MeshConfig(tensor=3),
        MeshConfig(tensor=16),
        MeshConfig.model_construct(data=-1, fsdp=-1, tensor=1),
        MeshConfig.model_construct(data=0, fsdp=-1, tensor=1),
    ],
)
def test_meshes_that_do_not_fit_the_devices_are_refused(config):
    with pytest.raises(ExtraError, match=r"mesh .*devices|at most one is -1"):
        mesh_shape(config, 8)


# --- program size ---------------------------------------------------------------------------------------------------


def _program_text(layers: int, *, gradient: bool) -> str:
    config = dataclasses.replace(CONFIG, num_hidden_layers=layers)
    graphdef, abstract = abstract_model(config, MODEL)
    tokens = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)

    def forward(params, tokens, positions):
        model = nnx.merge(graphdef, params)
        return model.logits(model(tokens, positions)[0]).sum()

    program = jax.grad(forward) if gradient else forward
    return jax.jit(program).lower(abstract, tokens, tokens).as_text()


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_program_size_does_not_grow_with_depth(monkeypatch, gradient):
    """Where it is scanned: on a CPU, few layers are not."""
    monkeypatch.setattr(qwen3, "platform", lambda: "tpu")
    shallow, deep = _program_text(4, gradient=gradient), _program_text(28, gradient=gradient)
    assert "dot_general" in shallow
    assert abs(len(deep) / len(shallow) - 1) < 0.02
