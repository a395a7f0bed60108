"""Which model fits which slice: the update of GRPO with f32 master weights and Adam, by the TPU compiler.

python -m benchmarks.plan.fits
"""

from pathlib import Path

from benchmarks.plan.cases import run_cases
from extra_jax.config import config_from_dict
from extra_jax.plan.main import make_plan

HERE = Path(__file__).parent
CASES = [  # model, topology, packed rows a chip, prompt, completion
    ("1.7B", "v5e:2x4", 2, 512, 1536),
    ("4B", "v5e:2x4", 1, 512, 1536),
    ("4B", "v5e:4x4", 1, 1024, 4096),
    ("8B", "v6e:2x4", 1, 512, 1536),
    ("8B", "v5p:2x2x1", 1, 512, 1536),
    ("4B", "v5e:2x2", 1, 1024, 16384),
    ("4B", "v5e:2x4", 1, 1024, 16384),
    ("4B", "v5e:4x4", 1, 1024, 16384),
    ("32B", "v6e:4x4", 1, 1024, 4096),
    ("32B", "v5p:2x2x4", 1, 1024, 4096),
]


def main() -> None:
    run_cases(__doc__, HERE / "fits.csv", CASES, measure)


def measure(model: str, topology: str, rows: int, prompt: int, completion: int) -> dict[str, str | int | float]:
    config = config_from_dict(
        {
            "model": {"preset": model},
            "rollout": {"max_prompt_length": prompt, "max_completion_length": completion, "slots": 8},
            "train": {"prompts_per_step": 64, "num_generations": 8, "micro_batch_rows": rows},
        }
    )
    plan = make_plan(config, topology, only=("update",))
    compiled, memory = plan.compiled["update"], plan.memory["update"]
    return {
        "model": model,
        "topology": topology,
        "tokens_a_chip": rows * (prompt + completion),
        "row": prompt + completion,
        "parameters_gib": round(memory.kinds["parameters"] / 2**30, 2),
        "optimizer_gib": round(memory.kinds["optimizer"] / 2**30, 2),
        "temporaries_gib": round(memory.temporaries / 2**30, 2),
        "total_gib": round(memory.total / 2**30, 2),
        "capacity_gib": plan.capacity / 2**30,
        "fits": plan.fits,
        "lower_seconds": round(compiled.lower_seconds, 1),
        "compile_seconds": round(compiled.compile_seconds),
        "stablehlo_mb": round(compiled.stablehlo_bytes / 1e6, 3),
    }


if __name__ == "__main__":
    main()
