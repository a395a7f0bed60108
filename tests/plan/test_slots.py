"""A plan and a run choose the same slots for every recipe, from the same memory, with nothing compiled."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from extra_jax.config import load_config
from extra_jax.model.config import preset
from extra_jax.parallel.sharding import batch_ways
from extra_jax.plan.compiler import prepare, tpu_mesh
from extra_jax.plan.programs import with_sampler_defaults
from extra_jax.rollout.memory import USABLE_GIB, cache_bytes
from extra_jax.runtime import Runtime, sampling_params, weight_bytes

pytest.importorskip("libtpu", reason="the TPU compiler describes the slices")
RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
MESH = ["mesh.data=1", "mesh.fsdp=-1", "mesh.tensor=1"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_slots_of_the_plan_are_those_of_the_run(recipe: Path) -> None:
    prepare()
    config = load_config(recipe, MESH)
    mesh, _ = tpu_mesh(config.mesh, "v5e:2x2", 1)
    shape = dataclasses.replace(preset("tiny"), max_position_embeddings=1 << 16)
    tokenizer = SimpleNamespace(stop_ids=(0,), decode=lambda ids: "")
    sampler = Runtime(config, mesh, shape, None, tokenizer).sampler(sampling_params(config), stream="rollout")
    planned = with_sampler_defaults(config, shape, mesh).rollout
    assert planned.slots is not None
    assert sampler.shard_slots * sampler.shards == -(-planned.slots // sampler.shards) * sampler.shards
    assert sampler.sizes.chunk == planned.chunk


def test_the_slots_of_the_large_recipe_leave_room_for_what_makes_one_cache_of_another() -> None:
    """1.7B on sixteen v5e: all that is alive, the cache, a second one, and temporaries as large as a fifth of one."""
    prepare()
    config = load_config("configs/qwen3_1_7b_grpo.yaml", MESH)
    mesh, chip = tpu_mesh(config.mesh, "v5e:4x4", 1)
    shape = preset("1.7B")
    planned = with_sampler_defaults(config, shape, mesh).rollout
    kinds = weight_bytes(config, shape, mesh)
    cache = cache_bytes(shape, planned.slots, config.max_sequence_length + planned.chunk, "bfloat16") / batch_ways(mesh)
    assert chip.hbm_bytes == USABLE_GIB["TPU v5 lite"] * 2**30
    assert set(kinds) == {"parameters", "sampler", "optimizer", "reference"}
    assert sum(kinds.values()) + 2.2 * cache < chip.hbm_bytes < sum(kinds.values()) + 2.5 * cache
