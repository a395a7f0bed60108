"""Settings that are allowed and probably not meant; shown by ``--dry-run``."""

import json
import math
from collections.abc import Iterator

from extra_jax.config import Config
from extra_jax.data.problem import Problem
from extra_jax.reward.rewards import make_rewards
from extra_jax.rollout.store import STORE_BYTES, store_bytes

EVALUATES = ("train", "sft", "exprl", "eval")
_LONG_RUN = 50  # steps from which a run without a checkpoint on the way is worth a warning

HeldOut = dict[str, list[Problem] | None]


def find_warnings(
    config: Config,
    verb: str,
    train: list[Problem] | None = None,
    held_out: HeldOut | None = None,
    positions: float = math.inf,
) -> list[str]:
    """Settings that are allowed and probably not meant, one sentence each with the remedy; ``positions`` are those that
    the model knows."""
    warnings, e = [], config.eval
    if verb in ("train", "exprl", "rollout", "eval", "sample") and config.max_sequence_length > positions:
        warnings.append(
            f"rollout.max_prompt_length + rollout.max_completion_length = {config.max_sequence_length:,} exceeds "
            f"the {positions:,} positions of the model"
        )
    if verb in ("train", "exprl"):
        warnings += _train_warnings(config)
        if train and (asked := config.train.prompts_per_step) > len(train):
            warnings.append(
                f"train.prompts_per_step={asked:,} asks {len(train):,} problems several times a step, as prompts of "
                "their own; set it to their number, or raise train.num_generations"
            )
    if verb == "train" and train and config.rollout.noise == "problem":
        warnings += _noise_warnings(config, len(train))
    if verb in EVALUATES and config.benchmarks and e.temperature == 0 and e.num_generations > 1:
        warnings.append(f"eval.temperature=0: all {e.num_generations} samples of a problem are equal; use 1 sample")
    if verb == "sft" and config.sft.row_length > positions:
        warnings.append(f"sft.row_length={config.sft.row_length:,} exceeds the {positions:,} positions of the model")
    seen = {json.dumps(problem.prompt) for problem in train or ()}  # a chat cannot be hashed
    for name, problems in (held_out or {}).items():
        if shared := sum(json.dumps(problem.prompt) in seen for problem in problems or ()):
            warnings.append(
                f"{shared:,} of {len(problems or ()):,} held-out problems of {name} are also training problems; pass@k "
                "would measure memory: choose other held-out problems"
            )
    return warnings


def _train_warnings(config: Config) -> Iterator[str]:
    t, r, o = config.train, config.rollout, config.optim
    if r.temperature == 0:
        yield "rollout.temperature=0: all completions of a prompt are equal, so every advantage is 0; use 1.0"
    if (r.top_p, r.top_k, r.min_p) != (1.0, 0, 0.0):
        yield (
            "rollout.top_p, top_k or min_p cut the distribution that the gradient is taken of; train with "
            "top_p=1 top_k=0 min_p=0 and keep them for eval"
        )
    if t.epsilon_high is not None and t.epsilon_high < t.epsilon:
        yield f"train.epsilon_high={t.epsilon_high:g} is below train.epsilon={t.epsilon:g}: good tokens clip first"
    if t.updates_per_step == 1 and t.delta is not None:
        yield "train.delta has no effect with one update a step: the ratio is 1"
    if make_rewards(config.reward, config.data, config.rollout.max_completion_length).constant:
        yield "reward.functions gives every verdict the same reward: every advantage is 0"
    updates = t.max_steps * t.updates_per_step
    if o.warmup_steps >= updates:
        yield f"optim.warmup_steps={o.warmup_steps:,} is not shorter than the run of {updates:,} optimizer updates"
    if config.checkpoint.every > t.max_steps >= _LONG_RUN:
        yield f"checkpoint.every={config.checkpoint.every:,}: the only checkpoint is the one after the last step"


def _noise_warnings(config: Config, problems: int) -> Iterator[str]:
    t, longest = config.train, config.rollout.max_completion_length
    if t.max_steps * t.prompts_per_step < 2 * problems:
        yield (
            f"rollout.noise=problem: {t.max_steps:,} steps see {problems:,} problems less than twice, so little noise "
            "returns; use rollout.noise=fresh"
        )
    needed = store_bytes(problems, t.num_generations, longest)
    if config.rollout.reuse == "verified" and needed > STORE_BYTES:
        yield (
            f"rollout.reuse=verified: completions of the longest length would take {needed / 2**30:.1f} GiB, the store "
            f"has {STORE_BYTES / 2**30:g}; if it fills (reuse/store_fill), the oldest are decoded again"
        )
