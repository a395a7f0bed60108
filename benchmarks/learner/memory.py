"""Memory of an update at the real vocabulary, with the head in chunks and whole, on the CPU.

Two layers, one row of 4,096 tokens, V = 151,936, f32. Each variant runs in a process of its own, one after the other,
and tells two numbers: what XLA allocates besides its arguments, and by how much the resident memory of the process
peaks during the update, over what it was just before it, with weights and optimizer state in. The whole head needs
about 10 GB. Linux only: the peak is that of ``/proc``.

    python benchmarks/learner/memory.py --out benchmarks/learner/memory.csv
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from extra_jax.config import MeshConfig, config_from_dict
from extra_jax.learn import score
from extra_jax.learn.batch import MicroBatches, TokenBatch
from extra_jax.learn.grpo import Learner
from extra_jax.model.config import preset
from extra_jax.model.qwen3 import Qwen3
from extra_jax.parallel.mesh import make_mesh
from extra_jax.parallel.sharding import TRAIN, batch_sharding, param_shardings, replicated

LENGTH, PROMPT = 4096, 512
VARIANTS = ("chunks", "whole")


def measure(variant: str) -> dict[str, int | str]:
    """One update of this process: bytes that XLA allocates, and resident ones before it and at the peak."""
    shape = preset("smoke")
    if variant == "whole":
        score.chunk_length = lambda positions, vocab_size: positions
    config = config_from_dict(
        {
            "model": {"preset": "smoke", "dtype": "float32"},
            "rollout": {"max_prompt_length": PROMPT, "max_completion_length": LENGTH - PROMPT},
        }
    )
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: Qwen3(shape, rngs=nnx.Rngs(0))))
    layout = param_shardings(abstract, mesh, TRAIN)
    learner = Learner(graphdef, config, mesh)
    with jax.set_mesh(mesh):
        params = jax.jit(lambda: nnx.state(Qwen3(shape, rngs=nnx.Rngs(0))), out_shardings=layout)()
    state = learner.init(params)
    batches = one_row(shape.vocab_size, mesh)
    with jax.set_mesh(mesh):
        compiled = learner.update.program.lower(state, batches).compile()
        jax.block_until_ready((state, batches))
        before = reset_peak()
        state, told = compiled(state, batches)
        entropy = float(told["entropy"])
    return {
        "head": variant,
        "xla_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "rss_before_bytes": before,
        "rss_peak_bytes": resident("VmHWM"),
        "entropy": round(entropy, 4),
    }


def one_row(vocab_size: int, mesh: jax.sharding.Mesh) -> MicroBatches:
    """A prompt and its completion, which fills the row."""
    index = np.arange(LENGTH, dtype=np.int32)
    random = np.random.default_rng(0)
    completion = (index >= PROMPT).astype(np.float32)
    columns = (
        random.integers(0, vocab_size, LENGTH, np.int32),
        index,
        np.ones(LENGTH, np.int32),
        completion / completion.sum(),
        completion,
        np.zeros(LENGTH, np.float32),
    )
    rows = TokenBatch(*(jax.device_put(column[None, None], batch_sharding(mesh, 1)) for column in columns))
    return MicroBatches(rows, jax.device_put(np.int32(1), replicated(mesh)))


def reset_peak() -> int:
    """Makes the peak of this process what it holds now; returns that, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(field: str) -> int:
    """Bytes of ``VmRSS`` (now) or ``VmHWM`` (peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, help="one measurement, as JSON")
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant)))
        return
    rows = []
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--variant", variant]
        done = subprocess.run(
            command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    for name, of in (
        ("XLA allocates", lambda row: row["xla_bytes"]),
        ("resident memory grows by", lambda row: row["rss_peak_bytes"] - row["rss_before_bytes"]),
    ):
        chunks, whole = map(of, rows)
        print(f"{name}: in chunks {chunks / 1e9:.2f} GB, whole {whole / 1e9:.2f} GB: 1 / {whole / chunks:.1f}")
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
