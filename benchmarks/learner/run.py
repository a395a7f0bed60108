"""One GRPO step on the CPU: this learner against torch with ``transformers``' Qwen3, and against Tunix.

A Qwen3 of 8 layers, D 512, F 1536, V 4096, in f32; 32 rollouts in groups of 8 with a prompt of 64 tokens, completion
lengths exponential with mean 64, capped at 256; one AdamW step. All take the same rollouts and the same weights, and
have to report the same mean entropy. torch pads to the longest of each micro-batch of 8, as TRL does, and projects
completion positions only. Tunix pads every completion to the cap and projects all positions, as its learner does;
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
from pathlib import Path

import numpy as np

ROLLOUTS, GROUP, PROMPT, MEAN, CAP, MICRO = 32, 8, 64, 64, 256, 8
SYSTEMS = ("ours", "torch", "tunix")


def lengths() -> np.ndarray:
    return np.random.default_rng(0).exponential(MEAN, ROLLOUTS).astype(int).clip(1, CAP)


def tokens(distinct: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompts ``[R, 64]``, of groups or all different, completions ``[R, 256]`` and advantages ``[R]``."""
    random = np.random.default_rng(1)
    group = 1 if distinct else GROUP
    prompts = random.integers(0, 4096, (ROLLOUTS // group, PROMPT)).astype(np.int32).repeat(group, axis=0)
    return prompts, random.integers(0, 4096, (ROLLOUTS, CAP)).astype(np.int32), random.standard_normal(ROLLOUTS)


def shape():
    from extra_jax.model.config import Qwen3Config

    return Qwen3Config(4096, 512, 1536, 8, 8, 4, head_dim=64)


def ours(weights: Path, distinct: bool) -> Callable[[], float]:
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
            "rollout": {"max_prompt_length": PROMPT, "max_completion_length": CAP},
            # rows that these lengths fill best
            "train": {"prompts_per_step": 4, "num_generations": 8, "row_length": 384 if distinct else 480}
            | {"micro_batch_rows": 2 if distinct else 1},
        }
    )
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: Qwen3(shape(), rngs=nnx.Rngs(0), remat="none")))
    params = load_params(weights, shape(), param_shardings(abstract, mesh, TRAIN), "float32")
    learner = Learner(graphdef, config, mesh)
    state = learner.init(params)
    prompts, completions, advantages = tokens(distinct)
    zeros = np.zeros(completions.shape, np.float32)
    rollouts = Rollouts(
        rollout_ids=np.arange(ROLLOUTS),
        prompt_index=np.arange(ROLLOUTS, dtype=np.int32) // GROUP,
        prompt_ids=list(prompts),
        tokens=completions,
        lengths=lengths().astype(np.int32),
        logprobs=zeros,
        entropies=zeros,
        stop_reasons=[StopReason.STOP_TOKEN] * ROLLOUTS,
        prefix_ids=[np.zeros(0, np.int32)] * ROLLOUTS,
        full_logprobs=zeros,
        filter_logprob_mass=zeros,
    )

    def step() -> float:
        nonlocal state
        (batch,) = learner.batches(state.params, None, rollouts, advantages)
        state, told = learner.update(state, batch)
        return float(told["entropy"])

    return step


def with_torch(weights: Path, distinct: bool) -> Callable[[], float]:
    """The same in torch."""
    import torch
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(weights, dtype=torch.float32, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, eps=1e-8, weight_decay=0.0)
    prompts, completions, advantages = (torch.tensor(x) for x in tokens(distinct))
    sizes = torch.tensor(lengths())

    def step() -> float:
        optimizer.zero_grad()
        entropy = 0.0
        for start in range(0, ROLLOUTS, MICRO):
            rows = slice(start, start + MICRO)
            longest = int(sizes[rows].max())
            ids = torch.cat([prompts[rows], completions[rows, :longest]], 1).long()
            mask = torch.arange(longest) < sizes[rows, None]
            attention = torch.cat([torch.ones(MICRO, PROMPT), mask], 1).long()
            logits = model(ids, attention_mask=attention, logits_to_keep=longest + 1).logits[:, :-1]
            logprobs = logits.log_softmax(-1)
            chosen = logprobs.gather(-1, ids[:, PROMPT:, None])[..., 0]
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


def with_tunix(weights: Path, distinct: bool) -> Callable[[], float]:
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

    s = shape()
    config = qwen3.ModelConfig(
        s.num_hidden_layers, s.vocab_size, s.hidden_size, s.intermediate_size, s.num_attention_heads, s.head_dim,
        s.num_key_value_heads, rope_theta=1_000_000, norm_eps=1e-6, use_tied_embedding=True,
    )  # fmt: skip
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    model = params.create_model_from_safe_tensors(str(weights), config, mesh, dtype=jnp.float32)
    grpo = GRPOConfig(loss_agg_mode="token-mean", beta=0.0, epsilon=0.2, num_generations=8)
    grpo.epsilon_high, grpo.temperature = 0.28, 1.0
    trainer = Trainer(
        model,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-6, weight_decay=0.0)),
        TrainingConfig(eval_every_n_steps=1, gradient_accumulation_steps=ROLLOUTS // MICRO),
        custom_checkpoint_metadata_fn=dict,
    )
    pad = -1  # told by its value: no token of ours may have it
    loss = algo_core.grpo_loss_fn
    trainer.with_loss_fn(lambda model, example: loss(model, example, grpo, pad_id=pad, eos_id=pad), has_aux=True)
    trainer.with_gen_model_input_fn(lambda example: {"example": example})
    prompts, completions, advantages = tokens(distinct)
    sizes = lengths()
    kept = np.arange(CAP) < sizes[:, None]
    rows = (prompts, np.ones_like(prompts), np.where(kept, completions, pad), kept, advantages.astype(np.float32))

    def step() -> float:
        entropy = 0.0
        train_step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
        for start in range(0, ROLLOUTS, MICRO):
            part = slice(start, start + MICRO)
            example = common.TrainExample(*(jnp.asarray(x[part]) for x in rows), None, None)
            _, told, _ = train_step(example)
            entropy += float(told["entropy"] * sizes[part].sum() / sizes.sum())
        jax.block_until_ready(nnx.state(trainer.model))
        return entropy

    return step


def measure(system: str, weights: Path, distinct: bool, steps: int) -> dict[str, float]:
    """Seconds and CPU-seconds of the median step after a warm-up, and the entropy of the first."""
    step = {"ours": ours, "torch": with_torch, "tunix": with_tunix}[system](weights, distinct)
    entropy = step()
    wall, cpu = [], []
    for _ in range(steps):
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
    parser.add_argument("--out", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("/tmp/learner-benchmark"))
    parser.add_argument("--system", choices=(*SYSTEMS, "weights", "rate"), help="one measurement, as JSON")
    args = parser.parse_args()
    if args.system == "weights":
        from flax import nnx

        from extra_jax.model.hf import save_params
        from extra_jax.model.qwen3 import Qwen3

        save_params(args.weights, nnx.state(Qwen3(shape(), rngs=nnx.Rngs(0))), shape(), dtype="float32")
        return
    if args.system == "rate":
        print(json.dumps(matmul_rate()))
        return
    if args.system:
        print(json.dumps(measure(args.system, args.weights, args.distinct, args.steps)))
        return

    def alone(system: str) -> str:
        command = [sys.executable, __file__, "--system", system, "--steps", str(args.steps)]
        command += ["--distinct"] if args.distinct else []
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        told = subprocess.run(
            [*command, "--weights", str(args.weights)], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return told.stdout.splitlines()[-1] if told.stdout else "null"

    if not args.weights.exists():
        alone("weights")
    useful = int(lengths().sum()) + ROLLOUTS * PROMPT
    floor = 6 * shape().num_parameters * useful
    rows = []
    for number in range(args.rounds):
        rate = json.loads(alone("rate"))
        for system in args.systems:
            told = json.loads(alone(system))
            told |= {"useful_tokens_per_second": useful / told["seconds"]}
            told |= {"useful_tokens_per_cpu_second": useful / told["cpu_seconds"]}
            told |= {"share_of_floor": floor / rate / told["seconds"], "matmul_gflops": rate / 1e9}
            rows.append({"round": number, "system": system, **{k: float(f"{v:.5g}") for k, v in told.items()}})
            print(rows[-1], flush=True)
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
