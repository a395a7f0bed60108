"""Compiles a decode chunk for a TPU topology with the real TPU compiler, without a TPU, and prints what it needs.

Qwen3-1.7B in bf16, tensor parallel over all chips, 128 slots of 2,048 positions. Needs `pip install -e '.[tpu]'`.
"""

import argparse
import os
import re
import time
from collections import Counter

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from extra_jax.model.config import preset
from extra_jax.model.qwen3 import KeysValues, Qwen3
from extra_jax.parallel.mesh import AXES
from extra_jax.parallel.sharding import ROLLOUT, param_shardings
from extra_jax.rollout.cache import Slots
from extra_jax.rollout.decode import Resets, decode_chunk
from extra_jax.rollout.sampling import ROUND_AS_WRITTEN
from extra_jax.rollout.types import SamplingParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--model", default="1.7B")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--capacity", type=int, default=2048)
    args = parser.parse_args()
    devices = np.array(topologies.get_topology_desc(args.topology, platform="tpu").devices)
    mesh = Mesh(devices.reshape(1, 1, -1), AXES, axis_types=(AxisType.Auto,) * 3)
    config = preset(args.model)
    graphdef, weights = nnx.split(nnx.eval_shape(lambda: Qwen3(config, rngs=nnx.Rngs(0), param_dtype="bfloat16")))
    place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    weights = jax.tree.map(place, weights, param_shardings(weights, mesh, ROLLOUT))

    def row(dtype: type) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((args.slots,), dtype, sharding=NamedSharding(mesh, P(("data", "fsdp"))))

    def cache(*shape: int) -> jax.ShapeDtypeStruct:
        layout = NamedSharding(mesh, P(None, ("data", "fsdp"), "tensor"))
        full = (config.num_hidden_layers, args.slots, config.num_key_value_heads, *shape)
        return jax.ShapeDtypeStruct(full, jnp.bfloat16, sharding=layout)

    kv = KeysValues(cache(config.head_dim, args.capacity), cache(args.capacity, config.head_dim))
    slots = Slots(kv, row(jnp.int32), row(jnp.int32), row(jnp.int32), row(jnp.uint32), row(jnp.bool_))
    resets = Resets(row(jnp.bool_), row(jnp.int32), row(jnp.int32), row(jnp.int32), row(jnp.uint32))

    def program(weights: nnx.State, slots: Slots, resets: Resets, step: jax.Array) -> tuple:
        how = {"length": 16, "params": SamplingParams(), "stop_ids": (151645, 151643), "dtype": "bfloat16"}
        return decode_chunk(nnx.merge(graphdef, weights), slots, resets, 0, step, **how)

    with jax.set_mesh(mesh):
        step, start = jax.ShapeDtypeStruct((), jnp.uint32), time.perf_counter()
        jitted = jax.jit(program, donate_argnums=1, compiler_options=ROUND_AS_WRITTEN)
        lowered = jitted.lower(weights, slots, resets, step)
        print(f"StableHLO {len(lowered.as_text()) / 1e6:.2f} MB, lowered in {time.perf_counter() - start:.1f} s")
        compiled = lowered.compile()
    memory = compiled.memory_analysis()
    print(
        f"per chip: arguments {memory.argument_size_in_bytes / 1e9:.2f} GB, of them updated in place "
        f"{memory.alias_size_in_bytes / 1e9:.2f} GB; temporaries {memory.temp_size_in_bytes / 1e9:.3f} GB"
    )
    pattern = r"= \(?(\w+\[[\d,]*\]).* (all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\("
    found = re.findall(pattern, compiled.as_text())
    for (shape, kind), count in Counter(found).items():
        print(f"{count} x {kind} {shape}")


if __name__ == "__main__":
    main()
