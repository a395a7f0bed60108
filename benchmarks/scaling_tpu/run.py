"""Weak scaling by the TPU compiler: Qwen3-1.7B on 4 to 512 chips and on two slices, at constant tokens per chip.

Compiles the update and the decode chunk for each topology, without a TPU, and writes per chip: memory, work, and bytes
sent for one micro-batch, for the rest of an update and for a decode chunk. The head divides its vocabulary over at most
128 shards, so ``fsdp`` is at most 128 and more chips are ``data``.

    python -m benchmarks.scaling_tpu.run
"""

from pathlib import Path

from benchmarks.plan.cases import run_cases
from extra_jax.config import config_from_dict
from extra_jax.plan.main import make_plan

HERE = Path(__file__).parent
RUNS = [  # topology, slices, fsdp, data
    ("v5p:2x2x1", 1, 4, 1),
    ("v5p:2x2x4", 1, 16, 1),
    ("v5p:4x4x4", 1, 64, 1),
    ("v5p:4x4x4", 1, 16, 4),
    ("v5p:4x8x8", 1, 16, 16),
    ("v5p:8x8x8", 1, 16, 32),
    ("v5p:2x2x4", 2, 16, 2),
    ("v5p:4x4x4", 2, 16, 8),
]
ROWS, PROMPT, COMPLETION, SLOTS, CHUNK = 4, 512, 1536, 64, 16  # a chip


def main() -> None:
    run_cases(__doc__, HERE / "results.csv", RUNS, measure)


def measure(topology: str, slices: int, fsdp: int, data: int) -> dict[str, float | str | int]:
    chips = fsdp * data
    config = config_from_dict(
        {
            "model": {"preset": "1.7B"},
            "mesh": {"data": data, "fsdp": fsdp},
            "rollout": {
                "max_prompt_length": PROMPT,
                "max_completion_length": COMPLETION,
                "slots": SLOTS * chips,
                "chunk": CHUNK,
            },
            "train": {"prompts_per_step": 8 * chips, "num_generations": 8, "micro_batch_rows": ROWS},
        }
    )
    plan = make_plan(config, topology, slices, ("update", "decode"))
    update, decode = plan.compiled["update"], plan.compiled["decode"]
    per_micro_batch = [one for one in update.collectives if one.loops]
    count = plan.run.workload.micro_batches

    def total(found: list, crosses: bool, runs: float = 1) -> float:
        return sum(one.bytes * one.runs for one in found if one.crosses_slices == crosses) / runs

    outside = [one for one in update.collectives if not one.loops]
    return {
        "topology": topology,
        "slices": slices,
        "chips": chips,
        "fsdp": fsdp,
        "data": data,
        "update_gib": round(plan.memory["update"].total / 2**30, 3),
        "update_temporary_gib": round(plan.memory["update"].temporaries / 2**30, 3),
        "decode_gib": round(plan.memory["decode"].total / 2**30, 3),
        "micro_batch_tflop": round(plan.phases["update"].flops / plan.run.workload.updates / count / 1e12, 3),
        "micro_batch_links_gb": round(total(per_micro_batch, False, count) / 1e9, 3),
        "micro_batch_network_gb": round(total(per_micro_batch, True, count) / 1e9, 3),
        "update_links_gb": round(total(outside, False) / 1e9, 4),
        "update_network_gb": round(total(outside, True) / 1e9, 4),
        "decode_links_gb": round(total(decode.collectives, False) / 1e9, 4),
        "compile_seconds": round(update.compile_seconds + decode.compile_seconds),
        "stablehlo_mb": round(update.stablehlo_bytes / 1e6, 3),
    }


if __name__ == "__main__":
    main()
