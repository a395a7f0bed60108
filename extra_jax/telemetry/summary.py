"""The numbers of one step's rollouts, over all processes."""

import numpy as np

from extra_jax.parallel.processes import allgather_rows
from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Verdict
from extra_jax.rollout.types import Rollouts
from extra_jax.telemetry.names import VERDICT_PREFIX

_VERDICTS = list(Verdict)


def rollout_metrics(rollouts: Rollouts, scores: Scores, advantages: np.ndarray, group_size: int) -> dict[str, float]:
    """Metrics under TRL's names (``telemetry/names.py``), the same on every process.

    Args:
        rollouts: ``R`` completions of this process, groups adjacent.
        scores: of these. ``pass_rate`` and ``groups/*`` count ``correct``, which is known also where a further reward
            function failed; ``verdicts/*`` count the verdicts.
        advantages: ``[R]``.
        group_size: completions a prompt.
    """
    codes = np.array([_VERDICTS.index(grade.verdict) for grade in scores.grades])
    prompt_tokens = np.array([len(ids) for ids in rollouts.prompt_ids])
    sampled = (rollouts.lengths, rollouts.truncated, prompt_tokens)
    columns = np.stack((scores.rewards, advantages, scores.correct, codes, *sampled), axis=1)
    rewards, advantages, correct, codes, lengths, truncated, prompt_tokens = allgather_rows(columns).T
    correct = correct.reshape(-1, group_size).mean(axis=1)
    spread = rewards.reshape(-1, group_size).std(axis=1, ddof=1)
    finished = lengths[truncated == 0]
    metrics = {
        "reward": rewards.mean(),
        "reward_std": spread.mean(),
        "frac_reward_zero_std": np.isclose(spread, 0.0).mean(),
        "pass_rate": correct.mean(),
        "groups/frac_all_correct": (correct == 1.0).mean(),
        "groups/frac_all_wrong": (correct == 0.0).mean(),
        "groups/frac_mixed": ((correct > 0.0) & (correct < 1.0)).mean(),
        "advantages/abs_mean": np.abs(advantages).mean(),
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/mean_terminated_length": finished.mean() if finished.size else float("nan"),
        "completions/clipped_ratio": truncated.mean(),
        "num_tokens": (lengths + prompt_tokens).sum(),
    }
    metrics |= {VERDICT_PREFIX + verdict: (codes == i).mean() for i, verdict in enumerate(_VERDICTS)}
    return {name: float(value) for name, value in metrics.items()}
