"""The runs: every recipe and control whose mathematics must survive a redesign."""

from pathlib import Path

import yaml

from benchmarks.exploration.lab import arms
from tests.golden.runs import small

_ROOT = Path(__file__).parents[2]
# The smallest sizes at which every part acts: prefixes from the second step on, of a few tokens.
_SIZES = {"warmup_steps": 1, "guided_fraction": 0.125, "hard_max_correct": 1}
_BASE = yaml.safe_load((_ROOT / "configs" / "exploration.yaml").read_text())["explore"]
_BASE["prompts"]["prefixes"] |= _SIZES


def explore(*overrides: str) -> tuple[str, ...]:
    sizes = [f"explore.prompts.prefixes.{name}={value}" for name, value in _SIZES.items()]
    return small("exploration.yaml", *sizes, *overrides)


def arm(name: str) -> tuple[str, ...]:
    return small("exploration.yaml", *arms.overrides(name, _BASE, _ROOT / "benchmarks" / "exploration" / "lab"))


CASES: dict[str, tuple[str, ...]] = {
    "quickstart": small("quickstart.yaml"),
    "grpo_everything": small(
        "quickstart.yaml", "train.num_minibatches=2", "train.num_iterations=2", "train.max_num_gen_batches=3",
        "train.beta=0.01", "train.scale_rewards=batch", "train.use_bias_correction_kl=false",
        "reward.functions=[{function: auto, args: {values: {wrong: 0.3}}}, {function: overlong, args: {cache: 4}}]",
    ),
    "corrected": explore(),
    "release_faithful": explore("explore.preset=release_faithful"),
    **{
        f"arm_{name}": arm(name)
        for name in (
            "G0", "G2", "N1", "N2", "N3", "N4", "N5", "N6", "L1", "L2", "L3",
            "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "F", "FR", "B0", "B1",
        )
    },
    "exprl_process": small("exprl_process.yaml", "reward=judge", "exprl.store=store", "exprl.stale=use"),
    "policy_hidden": explore("explore.encoder.name=policy_hidden", "explore.prompts.prefixes.smoothing=prefix_overlap"),
}  # fmt: skip
