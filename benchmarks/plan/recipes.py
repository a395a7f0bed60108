"""Recipes with their bill: each model on its slice, every program by the TPU compiler, and what 300 steps cost.

    python -m benchmarks.plan.recipes

Each is `configs/qwen3_1_7b_grpo.yaml` with the overrides below, which a run takes as they stand. `recipes.csv` gets a
row, and `recipe_MODEL_TOPOLOGY_LENGTH.txt` and `.json` what ``extra-jax plan`` prints.
"""

import json
from pathlib import Path

from rich.console import Console

from benchmarks.plan.cases import run_cases
from extra_jax.config import load_config
from extra_jax.plan.main import make_plan
from extra_jax.plan.table import show, to_json

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
]


def main() -> None:
    run_cases(__doc__ or "", HERE / "recipes.csv", CASES, measure)


def measure(model: str, topology: str, longest: int, overrides: tuple[str, ...]) -> dict[str, str | int | float]:
    settings = [f"model.path=Qwen3-{model}", f"rollout.max_completion_length={longest}", *overrides]
    plan = make_plan(load_config(HERE.parents[1] / "configs/qwen3_1_7b_grpo.yaml", settings), topology)
    stem = HERE / f"recipe_{model}_{topology.replace(':', '_')}_{longest}"
    console = Console(width=180, record=True)
    show(plan, console)
    text = "\n".join(line.rstrip() for line in console.export_text().splitlines())
    Path(f"{stem}.txt").write_text(text + "\n")
    Path(f"{stem}.json").write_text(json.dumps(to_json(plan), indent=2) + "\n")
    work, seconds = plan.run.workload, {name: phase.seconds for name, phase in plan.phases.items()}
    learning = sum(seconds[name] for name in ("score", "update") if name in seconds)
    return {
        "model": model,
        "topology": topology,
        "completion": longest,
        "overrides": " ".join(overrides),
        "completions": work.completions,
        "slots": work.slots,
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
