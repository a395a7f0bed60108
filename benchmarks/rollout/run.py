"""Throughput of the rollout engine on the CPU: useful tokens a second on a heavy-tailed workload.

An 8-layer Qwen3 (D 512, F 1536, 8/4 heads of 64, V 4096) with random weights, f32; 128 rollouts of 16 prompts of 64
tokens. Lengths are geometric with a mean of about 64, capped at 256: 64 of the 4,096 nearly equally likely tokens stop
a rollout.
"""

import argparse
import time

import jax
import numpy as np
from flax import nnx

from extra_jax.config import MeshConfig
from extra_jax.model.config import Qwen3Config
from extra_jax.model.qwen3 import Qwen3
from extra_jax.parallel.mesh import make_mesh
from extra_jax.parallel.reshard import reshard
from extra_jax.rollout.engine import Sampler
from extra_jax.rollout.types import Request, SamplingParams

CONFIG = Qwen3Config(4096, 512, 1536, 8, 8, 4, head_dim=64)
STOP_IDS = tuple(range(64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--scan", action="store_true", help="scan the layers instead of a list of layers")
    parser.add_argument("--runs", type=int, default=3, help="timed runs, after two that compile")
    args = parser.parse_args()
    mesh = make_mesh(MeshConfig())
    params = nnx.state(nnx.jit(lambda: Qwen3(CONFIG, rngs=nnx.Rngs(0)))())
    weights = reshard(params, mesh, dtype="float32", unstack=not args.scan)
    sampler = Sampler(
        CONFIG,
        nnx.split(nnx.eval_shape(lambda: Qwen3(CONFIG, rngs=nnx.Rngs(0), scan=args.scan)))[0],
        mesh,
        params=SamplingParams(max_completion_length=256),
        stop_ids=STOP_IDS,
        seed=0,
        max_prompt_length=64,
        slots=args.slots,
        chunk=args.chunk,
        dtype="float32",
        scan=args.scan,
    )
    random = np.random.default_rng(0)
    requests = [Request(random.integers(64, 4096, 64).tolist(), 8, 8 * i) for i in range(16)]
    for run in range(-2, args.runs):
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = sampler.generate(weights, requests, step=run % 2).lengths.sum()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        label = "warm-up" if run < 0 else "timed"
        print(f"{label}: {tokens} tokens, {tokens / wall:.0f} tokens/s, {tokens / cpu:.0f} tokens/CPU-s", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
