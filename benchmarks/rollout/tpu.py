"""The sampler on the real TPU compiler, without a TPU: memory, collectives and the best possible rate, as a table.

128 rows a data-parallel shard, prompts of 512 and sequences of 2,048 tokens, bf16, tensor parallel over 8 chips.
``--refill`` counts what copying eight contexts between slots moves. Needs ``pip install -e '.[tpu]'``.
"""

import argparse
import itertools
import json
import math
import re
from functools import partial
from pathlib import Path

import jax
import numpy as np

from extra_jax.config import Config, config_from_dict
from extra_jax.model.config import preset
from extra_jax.model.load import abstract_model
from extra_jax.parallel.sharding import ROLLOUT, batch_sharding, param_shardings
from extra_jax.plan.compiler import prepare, tpu_mesh
from extra_jax.plan.main import make_plan
from extra_jax.plan.sampler import sampler_programs
from extra_jax.plan.verdict import Plan
from extra_jax.rollout import cache

ROWS, PROMPT, LENGTH, TENSOR = 128, 512, 2048, 8
TOPOLOGIES = ("v5e:2x4", "v5e:4x4", "v6e:2x4", "v5p:2x2x2")
MODELS = ("1.7B", "4B", "8B")
HERE = Path(__file__).parent


def config_of(model: str, chips: int) -> Config:
    """Sampling of the table's shape; ``chunk`` makes a row exactly ``LENGTH`` positions."""
    shards, chunk = chips // TENSOR, 16
    return config_from_dict(
        {
            "model": {"preset": model},
            "mesh": {"data": 1, "fsdp": shards, "tensor": TENSOR},
            "rollout": {
                "max_prompt_length": PROMPT,
                "max_completion_length": LENGTH - PROMPT - chunk,
                "slots": ROWS * shards,
                "chunk": chunk,
            },
            "train": {"prompts_per_step": 16 * shards, "num_generations": 8},
            "plan": {"mean_prompt_length": PROMPT // 2, "mean_completion_length": (LENGTH - PROMPT) // 2},
        }
    )


def row_of(model: str, topology: str, plan: Plan, prefill: Plan) -> dict[str, object]:
    decode, phase, work = plan.compiled["decode"], plan.phases["decode"], plan.run.workload
    inside = [one for one in decode.collectives if one.loops]
    activations = ROWS * preset(model).hidden_size  # elements; a matrix of any layer has more
    return {
        "model": model,
        "topology": topology,
        "decode_temp_gb": plan.memory["decode"].temporaries / 1e9,
        "prefill_temp_gb": prefill.memory["prefill"].temporaries / 1e9,
        "sampler_gb": plan.run.memory["sampler"] / 1e9,
        "cache_gb": plan.run.memory["cache"] / 1e9,
        "step_gb": decode.step_bytes / 1e9,
        "step_over_weights_and_cache": plan.decode_traffic,
        "weight_all_gathers": sum(one.kind == "all-gather" and elements(one.shape) > activations for one in inside),
        "activation_all_reduces": sum(
            one.kind == "all-reduce" and elements(one.shape) == activations for one in inside
        ),
        "stablehlo_mb": decode.stablehlo_bytes / 1e6,
        "compile_s": decode.compile_seconds,
        "tokens_per_s_per_chip": work.completions * work.completion_length / phase.seconds / plan.chips,
        "bound": phase.bound,
    }


def elements(shape: str) -> int:
    """Of the largest array in the text of a shape."""
    return max(math.prod(int(n) for n in dims.split(",") if n) for dims in re.findall(r"\[([\d,]*)\]", shape))


def refill_bytes() -> dict[str, float]:
    """Bytes and temporaries a chip of copying eight contexts of the longest prompt between slots; 1.7B on v5e:2x4."""
    config, shape = config_of("1.7B", 8), preset("1.7B")
    mesh, _ = tpu_mesh(config.mesh, "v5e:2x4", 1)
    _, abstract = abstract_model(shape, config.model)
    placed = param_shardings(abstract, mesh, ROLLOUT)
    weights = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, "bfloat16", sharding=s), abstract, placed)
    slots = sampler_programs(config, shape, mesh, weights, ROWS, 16, scan=True).slots
    rows = jax.ShapeDtypeStruct((8,), np.int32, sharding=batch_sharding(mesh))
    clone = jax.jit(partial(cache.clone, shards=1), static_argnums=2, donate_argnums=0)
    with jax.set_mesh(mesh):
        compiled = clone.lower(slots, cache.Copies(rows, rows), PROMPT).compile()
    return {
        "bytes_accessed": compiled.cost_analysis()["bytes accessed"],
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refill", action="store_true")
    args = parser.parse_args()
    prepare()
    if args.refill:
        print(json.dumps(refill_bytes()))
        return
    rows = []
    for model, topology in itertools.product(MODELS, TOPOLOGIES):
        chips = int(np.prod([int(n) for n in topology.partition(":")[2].split("x")]))
        plans = [make_plan(config_of(model, chips), topology, only=(name,)) for name in ("decode", "prefill")]
        rows.append(row_of(model, topology, *plans))
        print(json.dumps(rows[-1]), flush=True)
        (HERE / "tpu.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
