"""One GRPO step on the CPU: this learner against torch with ``transformers``' Qwen3, and against Tunix.

``--shape`` names one of ``benchmarks/shapes.py``: a Qwen3 in f32, and four groups of rollouts with a prompt of one
length and completions of exponential lengths up to a cap; one AdamW step, in rows of the default length. All take the
same rollouts and the same weights, and have to report the same mean entropy. torch pads to the longest of each
micro-batch of 8, as TRL does, and projects completion positions only. Tunix pads every completion to the cap and
projects all positions, as its learner does;
``tunix`` needs google-tunix 0.1.7 on the path, which is no dependency of this project.

    python benchmarks/learner/run.py --rounds 3 --steps 3 --out benchmarks/learner/results.csv
    PYTHONPATH=FOLDER_WITH_TUNIX:. python benchmarks/learner/run.py ours torch tunix
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.shapes import SHAPES, Shape  # this folder's parent is not installed

MICRO = 8  # rollouts that torch and Tunix take at once
SYSTEMS = ("ours", "torch", "tunix")


def lengths(s: Shape) -> np.ndarray:
    return np.random.default_rng(0).exponential(s.mean, s.learned).astype(int).clip(1, s.cap)


def tokens(s: Shape, distinct: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompts ``[R, prompt]``, of groups or all different, completions ``[R, cap]`` and advantages ``[R]``."""
    random = np.random.default_rng(1)
    group, count = 1 if distinct else s.group, s.learned
    prompts = random.integers(0, s.vocab, (count // group, s.prompt)).astype(np.int32).repeat(group, axis=0)
    return prompts, random.integers(0, s.vocab, (count, s.cap)).astype(np.int32), random.standard_normal(count)


def ours(s: Shape, weights: Path, distinct: bool, **rows: int) -> Callable[[], float]:
    """A function that does a step and returns its loss."""
    import jax
    from flax import nnx

    from extra_jax.config import MeshConfig, config_from_dict
    from extra_jax.learn.grpo import Learner
    from extra_jax.model.hf import load_params
    from extra_jax.model.qwen3 import Qwen3
    from extra_jax.parallel.mesh import make_mesh
    from extra_jax.parallel.sharding import TRAIN, param_shardings
    from extra_jax.rollout.types import Rollouts, StopReason

    config = config_from_dict(
        {
            "model": {"preset": "tiny", "dtype": "float32", "remat": "none"},
            "rollout": {"max_prompt_length": s.prompt, "max_completion_length": s.cap},
            "train": {"prompts_per_step": 4, "num_generations": s.group, **rows},
        }
    )
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: Qwen3(s.config(), rngs=nnx.Rngs(0), remat="none")))
    params = load_params(weights, s.config(), param_shardings(abstract, mesh, TRAIN), "float32")
    learner = Learner(graphdef, config, mesh)
    state = learner.init(params)
    prompts, completions, advantages = tokens(s, distinct)
    zeros = np.zeros(completions.shape, np.float32)
    rollouts = Rollouts(
        rollout_ids=np.arange(s.learned),
        prompt_index=np.arange(s.learned, dtype=np.int32) // s.group,
        prompt_ids=list(prompts),
        tokens=completions,
        lengths=lengths(s).astype(np.int32),
        logprobs=zeros,
        entropies=zeros,
        stop_reasons=[StopReason.STOP_TOKEN] * s.learned,
        prefix_ids=[np.zeros(0, np.int32)] * s.learned,
        full_logprobs=zeros,
        filter_logprob_mass=zeros,
    )

    def step() -> float:
        nonlocal state
        (batch,) = learner.batches(state.params, None, rollouts, advantages)
        state, told = learner.update(state, batch)
        return float(told["entropy"])

    return step


def with_torch(s: Shape, weights: Path, distinct: bool) -> Callable[[], float]:
    """The same in torch."""
    import torch
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(weights, dtype=torch.float32, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, eps=1e-8, weight_decay=0.0)
    prompts, completions, advantages = (torch.tensor(x) for x in tokens(s, distinct))
    sizes = torch.tensor(lengths(s))

    def step() -> float:
        optimizer.zero_grad()
        entropy = 0.0
        for start in range(0, s.learned, MICRO):
            rows = slice(start, start + MICRO)
            longest = int(sizes[rows].max())
            ids = torch.cat([prompts[rows], completions[rows, :longest]], 1).long()
            mask = torch.arange(longest) < sizes[rows, None]
            attention = torch.cat([torch.ones(MICRO, s.prompt), mask], 1).long()
            logits = model(ids, attention_mask=attention, logits_to_keep=longest + 1).logits[:, :-1]
            logprobs = logits.log_softmax(-1)
            chosen = logprobs.gather(-1, ids[:, s.prompt :, None])[..., 0]
            with torch.no_grad():
                entropy += float((-(logprobs.exp() * logprobs).sum(-1) * mask).sum() / sizes.sum())
            ratio = torch.exp(chosen - chosen.detach())
            gain = advantages[rows, None].float()
            loss = -torch.min(ratio * gain, torch.clamp(ratio, 0.8, 1.28) * gain)
            ((loss * mask).sum() / sizes.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return entropy

    return step


def with_tunix(s: Shape, weights: Path, distinct: bool) -> Callable[[], float]:
    """The same with Tunix's own model, loss and trainer, which averages micro-batches, each a mean over its tokens."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx
    from tunix.models.qwen3 import model as qwen3
    from tunix.models.qwen3 import params
    from tunix.rl import algo_core, common
    from tunix.rl.grpo.grpo_learner import GRPOConfig
    from tunix.rl.trainer import Trainer
    from tunix.sft.peft_trainer import TrainingConfig

    config = qwen3.ModelConfig(
        s.layers, s.vocab, s.d, s.f, s.heads, s.head, s.kv_heads,
        rope_theta=1_000_000, norm_eps=1e-6, use_tied_embedding=True,
    )  # fmt: skip
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    model = params.create_model_from_safe_tensors(str(weights), config, mesh, dtype=jnp.float32)
    grpo = GRPOConfig(loss_agg_mode="token-mean", beta=0.0, epsilon=0.2, num_generations=8)
    grpo.epsilon_high, grpo.temperature = 0.28, 1.0
    trainer = Trainer(
        model,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-6, weight_decay=0.0)),
        TrainingConfig(eval_every_n_steps=1, gradient_accumulation_steps=s.learned // MICRO),
        custom_checkpoint_metadata_fn=dict,
    )
    pad = -1  # told by its value: no token of ours may have it
    loss = algo_core.grpo_loss_fn
    trainer.with_loss_fn(lambda model, example: loss(model, example, grpo, pad_id=pad, eos_id=pad), has_aux=True)
    trainer.with_gen_model_input_fn(lambda example: {"example": example})
    prompts, completions, advantages = tokens(s, distinct)
    sizes = lengths(s)
    kept = np.arange(s.cap) < sizes[:, None]
    rows = (prompts, np.ones_like(prompts), np.where(kept, completions, pad), kept, advantages.astype(np.float32))

    def step() -> float:
        entropy = 0.0
        train_step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
        for start in range(0, s.learned, MICRO):
            part = slice(start, start + MICRO)
            example = common.TrainExample(*(jnp.asarray(x[part]) for x in rows), None, None)
            _, told, _ = train_step(example)
            entropy += float(told["entropy"] * sizes[part].sum() / sizes.sum())
        jax.block_until_ready(nnx.state(trainer.model))
        return entropy

    return step


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Seconds and CPU-seconds of the median step after a warm-up, and the entropy of the first."""
    rows = {name: getattr(args, name) for name in ("row_length", "micro_batch_rows") if getattr(args, name)}
    build = {"ours": partial(ours, **rows), "torch": with_torch, "tunix": with_tunix}[args.system]
    step = build(SHAPES[args.shape], args.weights, args.distinct)
    entropy = step()
    wall, cpu = [], []
    for _ in range(args.steps):
        began, used = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return {"seconds": float(np.median(wall)), "cpu_seconds": float(np.median(cpu)), "entropy": entropy}


def matmul_rate() -> float:
    """FLOP/s of a large f32 matmul, all cores, in torch."""
    import torch

    x, y = torch.randn(2048, 2048), torch.randn(2048, 2048)
    rates = []
    for _ in range(8):
        began = time.perf_counter()
        x @ y
        rates.append(2 * 2048**3 / (time.perf_counter() - began))
    return max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=["ours", "torch"], help=", ".join(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--distinct", action="store_true", help="a prompt of its own for each rollout: nothing to share"
    )
    parser.add_argument("--shape", choices=SHAPES, default="middle")
    parser.add_argument("--row-length", type=int, help="of ours; default: that of a run")
    parser.add_argument("--micro-batch-rows", type=int, help="likewise")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--weights", type=Path, help="folder, made when missing")
    parser.add_argument("--system", choices=(*SYSTEMS, "weights", "rate"), help="one measurement, as JSON")
    args = parser.parse_args()
    s = SHAPES[args.shape]
    args.weights = args.weights or Path(f"/tmp/learner-benchmark-{args.shape}")
    if args.system == "weights":
        return s.export(args.weights)
    if args.system == "rate":
        print(json.dumps(matmul_rate()))
        return
    if args.system:
        print(json.dumps(measure(args)))
        return

    def alone(system: str) -> str:
        names = ("shape", "steps", "weights", "row_length", "micro_batch_rows")
        given = [f"--{n.replace('_', '-')}={getattr(args, n)}" for n in names if getattr(args, n) is not None]
        command = [sys.executable, __file__, "--system", system, *given, *(["--distinct"] if args.distinct else [])]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return told.stdout.splitlines()[-1] if told.stdout else "null"

    if not args.weights.exists():
        alone("weights")
    useful = int(lengths(s).sum()) + s.learned * s.prompt
    floor = 6 * s.config().num_parameters * useful
    rows = []
    for number in range(args.rounds):
        rate = json.loads(alone("rate"))
        for system in args.systems:
            told = json.loads(alone(system))
            told |= {"useful_tokens_per_second": useful / told["seconds"]}
            told |= {"useful_tokens_per_cpu_second": useful / told["cpu_seconds"]}
            told |= {"share_of_floor": floor / rate / told["seconds"], "matmul_gflops": rate / 1e9}
            rows.append(
                {
                    "shape": args.shape,
                    "round": number,
                    "system": system,
                    **{k: float(f"{v:.5g}") for k, v in told.items()},
                }
            )
            print(rows[-1], flush=True)
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
