"""A two-layer Qwen3 with weights that make every term count, on any mesh, and the sampler over it.

Shared by the tests of ``rollout`` and ``learn``. Everything that depends on how a ``Sampler`` is constructed is here.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from extra_jax.config import MeshConfig
from extra_jax.model.config import Qwen3Config
from extra_jax.model.qwen3 import Qwen3
from extra_jax.parallel.mesh import make_mesh
from extra_jax.parallel.reshard import reshard_program
from extra_jax.parallel.sharding import TRAIN, param_shardings
from extra_jax.rollout.engine import Sampler
from extra_jax.rollout.types import Request, Rollouts, SamplingParams

CONFIG = Qwen3Config(
    vocab_size=68,  # no other axis or product of axes has this size
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=8,
    max_position_embeddings=128,
)
STOP_IDS = (0, 7, 13, 41)  # 0 also fills the arrays: EOS == PAD in every test
MAX_PROMPT = 8
CAP = 20

MESHES = {  # fsdp x tensor
    "1": MeshConfig(fsdp=1),
    "8x1": MeshConfig(fsdp=8, tensor=1),
    "4x2": MeshConfig(fsdp=4, tensor=2),
    "2x4": MeshConfig(fsdp=2, tensor=4),
}


@functools.cache
def mesh(name: str = "1") -> jax.sharding.Mesh:
    return make_mesh(MESHES[name], jax.devices()[:1] if name == "1" else None)


@functools.cache
def graphdef(remat: str = "full", scan: bool = True) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: Qwen3(CONFIG, rngs=nnx.Rngs(0), remat=remat, scan=scan)))[0]


@functools.cache
def _host_params() -> nnx.State:
    """Numpy weights: a unit embedding would make the tied head certain of itself, so it is smaller."""
    random = np.random.default_rng(0)
    abstract = nnx.state(nnx.eval_shape(lambda: Qwen3(CONFIG, rngs=nnx.Rngs(0))))

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        noise = random.standard_normal(leaf.shape).astype(np.float32)
        if "norm" in name:
            return 1 + 0.3 * noise
        if "embed" in name:
            return 0.35 * noise
        fan_in = CONFIG.hidden_size if leaf.shape[1] == CONFIG.hidden_size else np.prod(leaf.shape[1:-1])
        return noise / np.sqrt(fan_in, dtype=np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def params(mesh_name: str = "1") -> nnx.State:
    """Fresh f32 copies in the training layout: an update may consume them."""
    host = _host_params()
    shardings = param_shardings(host, mesh(mesh_name), TRAIN)
    return jax.tree.map(lambda value, sharding: jax.device_put(np.array(value), sharding), host, shardings)


@functools.cache
def rollout_weights(mesh_name: str = "1", dtype: str = "float32", scan: bool = True) -> nnx.State:
    return reshard_program(params(mesh_name), mesh(mesh_name), dtype=dtype, unstack=not scan)(params(mesh_name))


@functools.cache
def sampler(
    mesh_name: str = "1",
    *,
    seed: int = 3,
    slots: int = 16,
    chunk: int = 4,
    scan: bool = True,
    stop_ids: tuple[int, ...] = STOP_IDS,
    dtype: str = "float32",
    **draw: object,
) -> Sampler:
    """Compiled once for each way of asking; ``draw`` changes ``SamplingParams``."""
    return Sampler(
        CONFIG,
        graphdef(scan=scan),
        mesh(mesh_name),
        params=SamplingParams(**{"max_completion_length": CAP} | draw),
        stop_ids=stop_ids,
        seed=seed,
        max_prompt_length=MAX_PROMPT,
        slots=slots,
        chunk=chunk,
        dtype=dtype,
        scan=scan,
        detokenize=detokenize,
    )


def detokenize(ids: Sequence[int]) -> str:
    """One printable character for each token."""
    return "".join(chr(ord("0") + int(token)) for token in ids)


def prompts() -> list[list[int]]:
    """Lengths 1 to ``MAX_PROMPT``; some contain or end in stop tokens."""
    random = np.random.default_rng(1)
    rows = [random.integers(0, CONFIG.vocab_size, 1 + i).tolist() for i in range(MAX_PROMPT)]
    rows[3][-1] = 0
    return rows


def requests() -> list[Request]:
    """Eight prompts of eight samples."""
    return [Request(ids, 8, index * 8) for index, ids in enumerate(prompts())]


def generate(of: Sequence[Request], mesh_name: str = "1", step: int = 5, **settings: object) -> Rollouts:
    weights = rollout_weights(mesh_name, settings.get("dtype", "float32"), settings.get("scan", True))
    return sampler(mesh_name, **settings).generate(weights, of, step)


def sequences(rollouts: Rollouts) -> list[np.ndarray]:
    """Prompt, prefix and completion of each row."""
    rows = range(len(rollouts))
    return [np.concatenate([rollouts.context_ids(row), rollouts.completion_ids(row)]) for row in rows]


def by_id(rollouts: Rollouts) -> dict[int, tuple[int, ...]]:
    """Completion of each rollout id."""
    return {int(uid): tuple(rollouts.completion_ids(row).tolist()) for row, uid in enumerate(rollouts.rollout_ids)}
