"""What others have measured on TPUs, beside what our plan says of the same work: does it bracket them?

    python -m benchmarks.plan.calibrate

A decode step takes, at best, its bytes at full bandwidth and the latencies of ``extra_jax/plan/roofline.py``; no
compiler is asked, so the operations of a layer are counted as the 35 that ours has, about.
"""

from extra_jax.model.config import preset
from extra_jax.plan.chips import CHIPS
from extra_jax.plan.roofline import ICI_SECONDS, OPERATION_SECONDS

OPERATIONS = 35  # of a layer of our decode step, about
MEASURED = [  # source, model, chip, tensor, rows of a replica, mean tokens of a row, milliseconds a token
    ("sglang-jax pull 194: 1,024 in, 1,024 out, 128 at once, median between tokens", "8B", "v6e", 4, 128, 1536, 17.18),
    (
        "tpu-inference pull 3117: 512 in, 512 out, 256 a replica, no fused steps, mean (chip not said)",
        "0.6B",
        "v6e",
        2,
        256,
        768,
        15.59,
    ),
]


def main() -> None:
    print("| measured by others | GB a step | planned, ms | measured, ms | ratio |\n|---|---|---|---|---|")
    for source, model, name, tensor, rows, tokens, measured in MEASURED:
        shape, chip = preset(model), CHIPS[name]
        keys = 4 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * tokens * rows
        moved = (2 * shape.num_parameters + keys) / tensor
        small = shape.num_hidden_layers * (OPERATIONS * OPERATION_SECONDS + 2 * ICI_SECONDS)
        planned = 1e3 * (moved / chip.hbm_bandwidth + small)
        print(f"| {source} | {moved / 1e9:.1f} | {planned:.1f} | {measured} | {planned / measured:.2f} |")


if __name__ == "__main__":
    main()
