"""The runs: every recipe and control whose mathematics must survive a redesign."""

from tests.golden.runs import small

# The smallest sizes at which every part acts: prefixes from the second step on, of a few tokens.
_EXPLORE = (
    "explore.prompts.prefixes.warmup_steps=1", "explore.prompts.prefixes.guided_fraction=0.125",
    "explore.prompts.prefixes.hard_max_correct=1",
)  # fmt: skip


def explore(*overrides: str) -> tuple[str, ...]:
    return small("exploration.yaml", *_EXPLORE, *overrides)


def arm(name: str, *overrides: str) -> tuple[str, ...]:
    return explore("explore.preset=null", f"explore.arm={name}", *overrides)


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
            "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "F", "FR", "B0",
        )
    },
    "arm_B1": arm("B1", "explore.acknowledge_bugs=true"),
    "policy_hidden": explore("explore.encoder.name=policy_hidden", "explore.prompts.prefixes.smoothing=prefix_overlap"),
}  # fmt: skip
