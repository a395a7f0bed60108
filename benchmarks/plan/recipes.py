"""Recipes with their bill: each model on its slice, every program by the TPU compiler, and what 300 steps cost.

    python -m benchmarks.plan.recipes             # minutes a recipe on quiet cores
    python -m benchmarks.plan.recipes --counted   # seconds: only what needs no compiler, recipes_counted.csv

Each is `configs/qwen3_1_7b_grpo.yaml` with the overrides below, which a run takes as they stand. `recipes.csv` gets a
row, and `recipe_MODEL_TOPOLOGY_LENGTH.txt` and `.json` what ``extra-jax plan`` prints. What is counted knows slots,
weights, caches and the formulas of the roofline; it has no temporaries, no collectives and no latencies, and the
decoder reads the whole cache at its full size.
"""

import dataclasses
import json
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.plan.cases import run_cases
from extra_jax.config import Config, load_config
from extra_jax.plan.compiler import tpu_mesh
from extra_jax.plan.main import make_plan, model_shape
from extra_jax.plan.programs import describe_run
from extra_jax.plan.roofline import phase, step_work
from extra_jax.plan.table import show, to_json
from extra_jax.plan.workload import Workload

HERE = Path(__file__).parent
STEPS = 300
CASES = [  # model, topology, tokens of a completion at most, overrides
    ("1.7B", "v5e:4x4", 4096, ()),
    (
        "4B",
        "v6e:2x4",
        2048,
        ("mesh.fsdp=2", "mesh.tensor=4", "train.prompts_per_step=128", "rollout.max_prompt_length=1024"),
    ),
    ("8B", "v6e:4x4", 4096, ("mesh.fsdp=4", "mesh.tensor=4", "train.micro_batch_rows=1")),
    ("8B", "v5p:2x2x2", 4096, ("mesh.fsdp=2", "mesh.tensor=4", "train.micro_batch_rows=2")),
    (
        "4B",
        "v6e:2x4",
        16384,
        (
            "mesh.fsdp=1",
            "mesh.tensor=8",
            "train.prompts_per_step=64",
            "train.micro_batch_rows=1",
            "rollout.max_prompt_length=1024",
        ),
    ),
    ("1.7B", "v5e:4x4", 4096, ("mesh.fsdp=4", "mesh.tensor=4")),
]


def main() -> None:
    if "--counted" in sys.argv:
        sys.argv.remove("--counted")
        run_cases(__doc__ or "", HERE / "recipes_counted.csv", CASES, count)
    else:
        run_cases(__doc__ or "", HERE / "recipes.csv", CASES, measure)


def recipe(model: str, longest: int, overrides: tuple[str, ...]) -> Config:
    settings = [f"model.path=Qwen3-{model}", f"rollout.max_completion_length={longest}", *overrides]
    return load_config(HERE.parents[1] / "configs/qwen3_1_7b_grpo.yaml", settings)


def _case(model: str, topology: str, longest: int, overrides: tuple[str, ...], work: Workload) -> dict[str, str | int]:
    named = {"model": model, "topology": topology, "completion": longest, "overrides": " ".join(overrides)}
    return named | {"completions": work.completions, "slots": work.slots}


def count(model: str, topology: str, longest: int, overrides: tuple[str, ...]) -> dict[str, str | int | float]:
    config = recipe(model, longest, overrides)
    shape, (mesh, chip) = model_shape(config), tpu_mesh(config.mesh, topology, 1)
    run = describe_run(config, shape, mesh)
    held, work = run.memory, run.workload
    a_token = held["sampler"] + held["cache"]
    counted = step_work(run.config, shape, work, dict(mesh.shape))
    decode = dataclasses.replace(counted["decode"], hbm_bytes=work.decode_calls * work.chunk * float(a_token))
    counted["decode"] = decode
    seconds = {p.name: phase(counted[p.name], chip, [], 0).seconds for p in run.programs if p.runs}
    step = sum(seconds.values())
    return {
        **_case(model, topology, longest, overrides, work),
        **{f"{kind}_gib": round(size / 2**30, 2) for kind, size in held.items() if not kind.startswith("eval")},
        "with_two_caches_gib": round(
            sum(held[kind] for kind in ("parameters", "optimizer", "reference", "sampler", "cache", "cache")) / 2**30, 2
        ),
        "chip_gib": round(chip.hbm_bytes / chip.devices / 2**30, 2),
        "decode_gb_a_token": round(a_token / 1e9, 2),
        "decode_seconds": round(seconds["decode"], 1),
        "learn_seconds": round(sum(seconds[name] for name in ("score", "update") if name in seconds), 1),
        "step_seconds": round(step, 1),
        "completion_tokens_a_second": round(work.completions * work.completion_length / step),
        "chip_hours": round(step * STEPS * (mesh.size // chip.devices) / 3600, 1),
    }


def measure(model: str, topology: str, longest: int, overrides: tuple[str, ...]) -> dict[str, str | int | float]:
    plan = make_plan(recipe(model, longest, overrides), topology)
    stem = HERE / f"recipe_{model}_{topology.replace(':', '_')}_{longest}"
    console = Console(width=180, record=True)
    show(plan, console)
    text = "\n".join(line.rstrip() for line in console.export_text().splitlines())
    Path(f"{stem}.txt").write_text(text + "\n")
    Path(f"{stem}.json").write_text(json.dumps(to_json(plan), indent=2) + "\n")
    work, seconds = plan.run.workload, {name: phase.seconds for name, phase in plan.phases.items()}
    learning = sum(seconds[name] for name in ("score", "update") if name in seconds)
    return {
        **_case(model, topology, longest, overrides, work),
        "fullest": plan.fullest,
        "gib": round(plan.memory[plan.fullest].total / 2**30, 2),
        "limit_gib": round(plan.limit / 2**30, 2),
        "fits": plan.fits,
        "decode_gb_a_token": round(plan.compiled["decode"].step_bytes / 1e9, 2),
        "decode_seconds": round(seconds["decode"], 1),
        "learn_seconds": round(learning, 1),
        "step_seconds": round(plan.seconds, 1),
        "completion_tokens_a_second": round(plan.tokens_per_second),
        "chip_hours": round(plan.seconds * STEPS * plan.chips / 3600, 1),
        "compile_seconds": round(sum(one.compile_seconds for one in plan.compiled.values())),
    }


if __name__ == "__main__":
    main()
