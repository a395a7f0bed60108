"""Throughput of the rollout engine and its peers on the CPU, on the same weights and requests.

``--shape`` names one of ``benchmarks/shapes.py``: a Qwen3 with random weights, f32, and how many rollouts of how many
prompts. Lengths are geometric: some of the nearly equally likely tokens stop a rollout. Slots and chunk are those that
a run has by default.

Every round runs each system once, so that noise of the machine falls on all of them. The floor is what the machine's
own matmul and memory rates, measured in the same run, allow for the work that the engine's rollouts need. Writes one
JSON row per system and round. ``tunix`` needs google-tunix 0.1.7 on the path, ``hf`` needs torch and transformers.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.shapes import SHAPES, Shape  # this folder's parent is not installed

Measure = Callable[[int], np.ndarray]
"""From a seed to the lengths ``[R]`` of the rollouts."""


def engine(
    s: Shape, folder: Path, slots: int | None, chunk: int | None, room: int, report: Callable[[dict], None]
) -> Measure:
    import jax
    from flax import nnx

    from extra_jax.config import MeshConfig, ModelConfig
    from extra_jax.model.load import build_model
    from extra_jax.model.qwen3 import Qwen3
    from extra_jax.parallel.mesh import make_mesh
    from extra_jax.parallel.reshard import reshard_program
    from extra_jax.rollout import memory
    from extra_jax.rollout.engine import Sampler
    from extra_jax.rollout.types import Request, SamplingParams

    mesh = make_mesh(MeshConfig())
    _, params, config = build_model(ModelConfig(path=str(folder)), mesh, seed=0)
    weights = reshard_program(params, mesh, dtype="float32", unstack=True)(params)
    sampler = Sampler(
        config,
        nnx.split(nnx.eval_shape(lambda: Qwen3(config, rngs=nnx.Rngs(0), scan=False)))[0],
        mesh,
        params=SamplingParams(max_completion_length=s.cap),
        stop_ids=s.stop_ids,
        seed=0,
        max_prompt_length=room * (s.prompt + s.cap) - s.cap,
        slots=slots
        or memory.default_slots(config, mesh, room * (s.prompt + s.cap), "float32", memory.free_bytes(mesh)),
        chunk=chunk or memory.default_chunk(s.cap),
        dtype="float32",
        scan=False,
    )
    requests = [Request(ids, s.group, s.group * i) for i, ids in enumerate(s.prompt_ids().tolist())]

    def measure(seed: int) -> np.ndarray:
        programs = sampler.programs.compiled()
        rollouts = sampler.generate(weights, requests, seed)
        counters = rollouts.counters
        report(
            {
                "occupancy": counters.occupancy,
                "host_share": counters.host_seconds / counters.seconds,
                "prefilled": counters.prefilled,
                "slots": sampler.shard_slots * sampler.shards,
                "compiled": sampler.programs.compiled() - programs,
            }
        )
        return rollouts.lengths

    jax.block_until_ready(weights)
    return measure


def hf(s: Shape, folder: Path, report: Callable[[dict], None]) -> Measure:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor(s.prompt_ids()).repeat_interleave(s.group, 0)

    def measure(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=s.cap,
                eos_token_id=list(s.stop_ids),
                pad_token_id=0,
            )
        return lengths_of(s, out[:, s.prompt :].numpy())

    return measure


def tunix(s: Shape, folder: Path, report: Callable[[dict], None]) -> Measure:
    import jax
    import jax.numpy as jnp
    from tunix.generate import sampler as tunix_sampler
    from tunix.models.qwen3 import model as qwen3
    from tunix.models.qwen3 import params

    config = qwen3.ModelConfig(
        s.layers,
        s.vocab,
        s.d,
        s.f,
        s.heads,
        s.head,
        s.kv_heads,
        rope_theta=1_000_000,
        norm_eps=1e-6,
        use_tied_embedding=True,
    )
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    model = params.create_model_from_safe_tensors(str(folder), config, mesh, dtype=jnp.float32)

    class Tokenizer:
        """Prompts are given as text of numbers."""

        def encode(self, text: str, **_: object) -> list[int]:
            return [int(token) for token in text.split()]

        def decode(self, ids: list[int], **_: object) -> str:
            return ""

        def bos_id(self) -> int:
            return 0

        def eos_id(self) -> int:
            return 0

        def pad_id(self) -> int:
            return 0

    sampler = tunix_sampler.Sampler(
        model, Tokenizer(), tunix_sampler.CacheConfig(s.prompt + s.cap + 8, s.layers, s.kv_heads, s.head)
    )
    texts = [" ".join(map(str, ids)) for ids in s.prompt_ids() for _ in range(s.group)]

    def measure(seed: int) -> np.ndarray:
        out = sampler(
            texts,
            max_generation_steps=s.cap,
            max_prompt_length=s.prompt,
            temperature=1.0,
            top_p=1.0,
            eos_tokens=list(s.stop_ids),
            seed=seed,
            return_logprobs=True,
        )
        return np.array([min(len(tokens) + 1, s.cap) for tokens in out.tokens])

    return measure


def lengths_of(s: Shape, tokens: np.ndarray) -> np.ndarray:
    """``[R, C]`` tokens -> lengths, the stop token included."""
    stops = np.isin(tokens, s.stop_ids)
    return np.where(stops.any(axis=1), stops.argmax(axis=1) + 1, tokens.shape[1])


def floor(s: Shape, lengths: np.ndarray, flop_rate: float) -> float:
    """Seconds that the machine needs at least, with all 128 rollouts at once.

    For each token position the matmuls of the rows that still run, at the measured matmul rate, or reading the weights
    once, whichever is longer; then their keys and values, at the measured rate of reading.
    """
    byte_rate = read_rate()
    weights = s.layers * (2 * s.d * s.heads * s.head + 2 * s.d * s.kv_heads * s.head + 3 * s.d * s.f) + s.vocab * s.d
    kv = 2 * s.layers * s.kv_heads * s.head * 4
    seconds = s.prompts * s.prompt * 2 * (weights - s.vocab * s.d) / flop_rate
    for position in range(int(lengths.max())):
        rows = int((lengths > position).sum())
        seconds += max(rows * 2 * weights / flop_rate, 4 * weights / byte_rate)
        seconds += rows * (s.prompt + position) * kv / byte_rate
    return seconds


def large_matmul_rate() -> float:
    """FLOPs a second of a 1024-cubed f32 matmul, all cores; the best of several."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((1024, 1024))
    return 2 * 1024**3 / _best(jax.jit(lambda x: x @ x), x)


def matmul_rate(s: Shape, rows: int) -> float:
    """FLOPs a second of ``rows`` tokens times the matrices of the feed-forward blocks, one after the other and nothing
    else; the faster order of the operands, and the best of several."""
    import jax
    import jax.numpy as jnp

    def products(wide: list, narrow: list, x: jax.Array) -> jax.Array:
        for gate, up, down in zip(wide[::2], wide[1::2], narrow, strict=True):
            x = down @ (gate @ x + up @ x) if flipped else (x @ gate + x @ up) @ down
        return x

    seconds = []
    for flipped in (False, True):
        shape = (s.f, s.d) if flipped else (s.d, s.f)
        wide = [jnp.full(shape, 1e-3) for _ in range(2 * s.layers)]
        narrow = [jnp.full(shape[::-1], 1e-3) for _ in range(s.layers)]
        x = jnp.ones((s.d, rows) if flipped else (rows, s.d))
        seconds.append(_best(partial(jax.jit(products), wide, narrow), x))
    return 6 * rows * s.d * s.f * s.layers / min(seconds)


def read_rate() -> float:
    """Bytes a second of a sum over 256 MB, all cores; the best of several."""
    rows = np.ones((2, 1 << 25), np.float32)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        return rows.nbytes / _best(lambda x: list(pool.map(np.sum, x)), rows)


def _best(function: Callable, x: object) -> float:
    times = []
    for _ in range(6):
        began = time.perf_counter()
        result = function(x)
        getattr(result, "block_until_ready", lambda: None)()
        times.append(time.perf_counter() - began)
    return min(times)


def serve(args: argparse.Namespace) -> None:
    """One system in a process of its own: a line with a seed in, a line with numbers out."""
    told: dict = {}
    shape = SHAPES[args.shape]
    if args.system == "engine":
        measure = engine(shape, args.weights, args.slots, args.chunk, args.room, told.update)
    else:
        measure = {"hf": hf, "tunix": tunix}[args.system](shape, args.weights, told.update)
    if args.system == "engine":
        for seed in range(args.rounds):  # every length and number of rows has its program
            measure(seed)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        lengths = measure(int(line))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if args.system == "engine":
            told["floor"] = floor(shape, lengths, matmul_rate(shape, min(told["slots"], shape.completions)))
            told["floor_of_large_matmuls"] = floor(shape, lengths, large_matmul_rate())
        print(json.dumps({"tokens": int(lengths.sum()), "seconds": wall, "cpu_seconds": cpu, **told}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=["engine"], help="engine, hf, tunix")
    parser.add_argument("--shape", choices=SHAPES, default="middle")
    parser.add_argument("--slots", type=int, help="default: that of a run")
    parser.add_argument("--chunk", type=int, help="default: that of a run")
    parser.add_argument("--room", type=int, default=1, help="longest sequence that is allowed for, in units of ours")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, after one that warms up")
    parser.add_argument("--weights", type=Path, help="folder, made when missing")
    parser.add_argument("--out", type=Path, help="JSON lines, one per system and round")
    parser.add_argument("--system", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.weights = args.weights or Path(f"/tmp/rollout-benchmark-{args.shape}")
    if args.system:
        return serve(args)
    if not args.weights.exists():
        SHAPES[args.shape].export(args.weights)
    options = {name: getattr(args, name) for name in ("shape", "weights", "slots", "chunk", "room", "rounds")}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    processes = {
        system: subprocess.Popen(
            [sys.executable, __file__, "--system", system, *given],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for system in args.systems
    }  # fmt: skip
    rows = []
    for seed in range(-1, args.rounds):
        for system, process in processes.items():
            process.stdin.write(f"{max(seed, 0)}\n")
            process.stdin.flush()
            row = {"system": system, "round": seed, **json.loads(process.stdout.readline())}
            rate = row["tokens"] / row["seconds"]
            more = "".join(f", {key} {row[key]:.3g}" for key in ("occupancy", "host_share", "compiled") if key in row)
            if "floor" in row:
                more += f", {row['floor'] / row['seconds']:.0%} of the floor"
            print(
                f"{'warm-up' if seed < 0 else 'timed'} {system}: {row['tokens']} tokens, {rate:.0f} tokens/s{more}",
                flush=True,
            )
            if seed >= 0:
                rows.append(row)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    if args.out:
        args.out.write_text("".join(json.dumps({"shape": args.shape, **row}) + "\n" for row in rows))
    print_table(args.shape, args.systems, rows)


def print_table(shape: str, systems: list[str], rows: list[dict]) -> None:
    """Medians of the rounds; the factors are those of one round each."""
    print("| shape | system | useful tokens/s | a CPU-second | ours is | by CPU-seconds | of the floor |")
    print("|---|---|---|---|---|---|---|")
    of_system = {system: [row for row in rows if row["system"] == system] for system in systems}
    for system, own in of_system.items():
        rate, cpu_rate = (np.median([row["tokens"] / row[key] for row in own]) for key in ("seconds", "cpu_seconds"))
        cells = [shape, system, f"{rate:.0f}", f"{cpu_rate:.0f}", "", "", ""]
        if system != "engine" and "engine" in of_system:
            for cell, key in ((4, "seconds"), (5, "cpu_seconds")):
                pairs = zip(of_system["engine"], own, strict=True)
                factors = [a["tokens"] / a[key] / (b["tokens"] / b[key]) for a, b in pairs]
                cells[cell] = f"{np.median(factors):.1f}x"
        if "floor" in own[0]:
            cells[6] = f"{np.median([row['floor'] / row['seconds'] for row in own]):.0%}"
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
