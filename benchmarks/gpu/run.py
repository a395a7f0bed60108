"""What one GPU makes of the kernels, the sampler and the learner, beside torch; random weights, nothing is downloaded.

Each part runs in a process of its own (two frameworks do not share a GPU's memory) and writes ``PART.json``; ``table``
prints them all. ``--small`` is the rehearsal: the same code on the CPU with a model of 0.8 M parameters.

- ``peaks``: bf16 matmul rate and memory bandwidth, which everything else is held against.
- ``attention``: the kernel that ``attend`` chooses against plain matmuls, forwards and backwards, both against f32.
- ``jax:MODEL``: rollouts a second against the bandwidth floor, the gap between the sampler's and the learner's
  log-probabilities of the same tokens, and the MFU of a GRPO update.
- ``torch:MODEL``: ``transformers.generate``, and a step of the same tokens in torch.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {  # prompts, group, prompt tokens, completion tokens; the learner takes the first rows of them
    False: dict(prompts=32, group=8, prompt=128, cap=1024, generate=128, learned=64, row=4096, matmul=8192),
    True: dict(prompts=4, group=4, prompt=8, cap=32, generate=8, learned=16, row=128, matmul=512),
}


def parts(small: bool) -> dict[str, float]:
    """Seconds that each part may take, in their order; on one H200 all of them together stay below eight minutes."""
    if small:
        return {"peaks": 120, "attention": 200, "jax:tiny": 900, "torch:tiny": 300}
    return {"peaks": 40, "attention": 60, "jax:0.6B": 120, "torch:0.6B": 60, "jax:1.7B": 130, "torch:1.7B": 60}


def stage(name: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)


def best(function: Callable[[], Any], times: int = 5) -> float:
    """Seconds of the fastest of several calls, after one that compiles; waits for what a call returns."""
    import jax

    jax.block_until_ready(function())
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def peaks(small: bool) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    n = SIZES[small]["matmul"]
    x, wide = jnp.ones((n, n), jnp.bfloat16), jnp.ones(n * n * 2, jnp.float32)
    matmul, add = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "matmul_tflops": 2 * n**3 / best(lambda: matmul(x)) / 1e12,
        "bandwidth_gb_s": 2 * wide.nbytes / best(lambda: add(wide)) / 1e9,
    }


def attention(small: bool) -> dict[str, Any]:
    """Errors are those of outputs and gradients against f32 matmuls, relative to the largest entry."""
    import jax
    import jax.numpy as jnp

    from extra_jax.model import attention as module
    from extra_jax.model import cudnn
    from extra_jax.model.mask import AttentionMask

    batch, length, heads, kv_heads, size = (1, 256, 4, 2, 32) if small else (4, 4096, 16, 8, 128)
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(batch, length, n, size) for n in (heads, kv_heads, kv_heads, heads)]
    q, k, v, weight = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    segments = jnp.where(positions < length // 3, 1, 2)  # two sequences in each row

    def gradients(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = module.attend(q, k, v, AttentionMask(positions, segments))
            return (out.astype(jnp.float32) * weight).sum(), out

        grads, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return (out, *grads)

    def measured(dtype: Any, plain: bool) -> tuple[list[np.ndarray], float]:
        chosen = module.platform
        if plain:
            module.platform = lambda: "any"  # no kernel of a library
        try:
            program = jax.jit(lambda *x: gradients(*x))
            inputs = [x.astype(dtype) for x in (q, k, v)]
            seconds = best(lambda: program(*inputs))
            return [np.asarray(x, np.float32) for x in program(*inputs)], seconds
        finally:
            module.platform = chosen

    exact, _ = measured(jnp.float32, plain=True)
    results: dict[str, Any] = {"kernel_is_cudnn": bool(cudnn.supports(*(x.astype(jnp.bfloat16) for x in (q, k, v))))}
    results["kernel_is_cudnn"] &= module.platform() in ("gpu", "cuda")
    for name, plain in (("kernel", False), ("matmuls", True)):
        values, seconds = measured(jnp.bfloat16, plain)
        errors = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(values, exact, strict=True)]
        results |= {f"{name}_ms": 1e3 * seconds, f"{name}_errors_out_dq_dk_dv": errors}
    return results


def with_jax(preset: str, small: bool) -> dict[str, Any]:
    import jax

    from extra_jax.config import MeshConfig, ModelConfig, config_from_dict
    from extra_jax.learn.grpo import Learner
    from extra_jax.model.load import build_model
    from extra_jax.parallel.mesh import make_mesh
    from extra_jax.parallel.reshard import reshard_program
    from extra_jax.rollout.engine import Sampler
    from extra_jax.rollout.types import Request, SamplingParams

    s = SIZES[small]
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    settings = {"preset": preset, "param_dtype": "float32", "dtype": "bfloat16", "remat": "dots"}
    graphdef, params, config = build_model(ModelConfig(**settings), mesh, seed=0)
    weights = reshard_program(params, mesh, dtype="bfloat16")(params)
    random = np.random.default_rng(0)
    sampler = Sampler(
        config, graphdef, mesh, params=SamplingParams(max_completion_length=s["cap"]), stop_ids=(config.vocab_size,),
        seed=0, max_prompt_length=s["prompt"], slots=s["prompts"] * s["group"], chunk=32, dtype="bfloat16",
    )  # fmt: skip
    asked = random.integers(0, config.vocab_size, (s["prompts"], s["prompt"])).tolist()
    requests = [Request(ids, s["group"], i * s["group"]) for i, ids in enumerate(asked)]
    stage("compiles the sampler")
    sampler.generate(weights, requests, 0)
    stage("samples")
    began = time.perf_counter()
    rollouts = sampler.generate(weights, requests, 1)
    seconds = time.perf_counter() - began
    bytes_of_weights = 2 * (config.num_parameters - (0 if config.tie_word_embeddings else params["embed"].size))
    kv = 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    read = s["cap"] * (bytes_of_weights + kv * len(rollouts) * (s["prompt"] + s["cap"] / 2))
    del weights

    tree = {
        "model": settings,
        "rollout": {"max_prompt_length": s["prompt"], "max_completion_length": s["cap"]},
        "train": {"prompts_per_step": s["learned"] // s["group"], "num_generations": s["group"]}
        | {"row_length": s["row"], "micro_batch_rows": 1},
    }
    stage("compiles the learner")
    learner = Learner(graphdef, config_from_dict(tree), mesh)
    state, learned = learner.init(params), rollouts.take(np.arange(s["learned"]))
    del params
    advantages = random.standard_normal(len(learned))
    with jax.set_mesh(mesh):
        (batch,) = learner.batches(state.params, None, learned, advantages)
        state, metrics = learner.update(state, batch)
        gap = {k: float(np.asarray(v)) for k, v in metrics.items() if "logp" in k or "kl" in k}
        jax.block_until_ready(state.params)
        (batch,) = learner.batches(state.params, None, learned, advantages)
        stage("updates")
        began = time.perf_counter()
        state, _ = learner.update(state, batch)
        jax.block_until_ready(state.params)
        step = time.perf_counter() - began
    matrices = config.num_parameters - config.vocab_size * config.hidden_size * (2 - config.tie_word_embeddings)
    completion = int(learned.lengths.sum())
    tokens = completion + s["prompt"] * s["learned"] // s["group"]  # a prompt is computed once for its group
    layers, width = config.num_hidden_layers, config.num_attention_heads * config.head_dim
    attended = 2 * layers * width * (completion * (s["prompt"] + s["cap"] / 2)) * 2
    flops = 6 * matrices * tokens + 6 * config.vocab_size * config.hidden_size * completion + 3 * attended
    return {
        "rollout_tokens_s": int(rollouts.lengths.sum()) / seconds,
        "rollout_seconds": seconds,
        "rollout_bytes": read,
        "gap": gap or None,
        "learner_seconds": step,
        "learner_flops": flops,
        "learner_tokens_s": tokens / step,
        "peak_gb": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9,
    }


def with_torch(preset: str, small: bool) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from extra_jax.model.config import preset as shape

    s, device = SIZES[small], "cuda" if torch.cuda.is_available() else "cpu"
    tree = shape(preset).to_hf()
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**tree), attn_implementation="sdpa")
    model = model.to(torch.bfloat16)

    def wait() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    rows = s["prompts"] * s["group"]
    ids = torch.randint(0, tree["vocab_size"], (rows, s["prompt"]), device=device)
    options = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "eos_token_id": tree["vocab_size"] + 1}
    with torch.no_grad():
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, **options)
        began = wait()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=s["generate"], **options)
        generated = wait() - began
    model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    ids = torch.randint(0, tree["vocab_size"], (s["learned"], s["prompt"] + s["cap"]), device=device)

    def step() -> None:
        for start in range(0, s["learned"], 8):
            some = ids[start : start + 8]
            logits = model(some, logits_to_keep=s["cap"] + 1).logits[:, :-1]
            chosen = some[:, s["prompt"] :, None]
            (-logits.float().log_softmax(-1).gather(-1, chosen).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    began = wait()
    step()
    seconds = wait() - began
    return {
        "generate_tokens_s": rows * s["generate"] / generated,  # of a short context, which flatters it
        "step_seconds": seconds,
        "step_completion_tokens_s": s["learned"] * s["cap"] / seconds,
        "torch": torch.__version__,
    }


def run_part(name: str, small: bool) -> dict[str, Any]:
    kind, _, preset = name.partition(":")
    if preset:
        return {"jax": with_jax, "torch": with_torch}[kind](preset, small)
    return {"peaks": peaks, "attention": attention}[kind](small)


def table(out: Path, small: bool) -> str:
    """The results of the parts that are there, one line each."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}
    top = results.get("peaks", {})
    lines = ["| what | result |", "|---|---|"]
    for name in parts(small):
        row = results.get(name.replace(":", "_"))
        if row is None:
            lines.append(f"| {name} | did not finish |")
            continue
        if name.startswith("jax:") and top:
            floor = row["rollout_bytes"] / (top["bandwidth_gb_s"] * 1e9)
            mfu = row["learner_flops"] / row["learner_seconds"] / (top["matmul_tflops"] * 1e12)
            row |= {"share_of_bandwidth_floor": floor / row["rollout_seconds"], "learner_mfu_of_measured_peak": mfu}
        for key, value in row.items():
            shown = f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
            lines.append(f"| {name} {key} | {shown} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--small", action="store_true", help="the rehearsal")
    parser.add_argument("--seconds", type=float, default=450, help="for all parts; what does not fit is left out")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part:
        result = run_part(args.part, args.small)
        (args.out / f"{args.part.replace(':', '_')}.json").write_text(json.dumps(result) + "\n")
        return 0
    end, failed = time.monotonic() + args.seconds, 0
    for name, limit in parts(args.small).items():
        limit = min(limit, end - time.monotonic())
        if limit < 5:
            continue
        command = [sys.executable, __file__, "--part", name, "--out", args.out, *(["--small"] if args.small else [])]
        began = time.monotonic()
        try:
            failed |= subprocess.run(command, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            failed = 1
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    text = table(args.out, args.small)
    (args.out / "table.md").write_text(text + "\n")
    print(text)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
