"""Names of the metrics, once: what each is called, its unit and how to read it.

Names are TRL's where the concept exists there; the others are ours (``groups/*``, ``verdicts/*``, ``timing_s/*``). The
trainer writes them, the progress line, the trackers and the report read them. A metric that is not listed here is
logged all the same; it only has no panel of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMING_PREFIX = "timing_s/"
VERDICT_PREFIX = "verdicts/"
REWARD_PREFIX = "rewards/"


@dataclass(frozen=True)
class Metric:
    """One metric: its key, a short label, its unit (``""``: a pure number) and what it tells."""

    key: str
    label: str
    unit: str
    meaning: str


_METRICS = (
    Metric("reward", "Reward", "", "Mean reward of the step's completions, before normalisation."),
    Metric("reward_std", "Reward spread", "", "Mean over prompts of the reward's standard deviation in the group."),
    Metric("pass_rate", "Pass rate", "share", "Completions that the grader called correct."),
    Metric(
        "frac_reward_zero_std",
        "Groups without signal",
        "share",
        "Prompts whose completions all got the same reward: their advantage is 0 and they teach nothing.",
    ),
    Metric("groups/frac_all_correct", "All correct", "share", "Prompts that every completion solves."),
    Metric("groups/frac_all_wrong", "All wrong", "share", "Prompts that no completion solves."),
    Metric("groups/frac_mixed", "Mixed", "share", "Prompts with correct and wrong completions: the ones that teach."),
    Metric("completions/mean_length", "Length", "tokens", "Mean completion length, stop token included."),
    Metric("completions/min_length", "Shortest", "tokens", "Shortest completion."),
    Metric("completions/max_length", "Longest", "tokens", "Longest completion."),
    Metric(
        "completions/mean_terminated_length", "Length, finished", "tokens", "Mean length of completions that stopped."
    ),
    Metric(
        "completions/clipped_ratio",
        "Truncated",
        "share",
        "Completions cut at max_completion_length (not PPO clipping).",
    ),
    Metric("entropy", "Entropy", "nats / token", "Of the sampler over the full vocabulary at temperature 1."),
    Metric("grad_norm", "Gradient norm", "", "Global norm before clipping, mean over the step's updates."),
    Metric(
        "advantages/abs_mean",
        "Advantage size",
        "",
        "Mean absolute advantage. 0 means that nothing is learned; a loss near 0 does not mean that.",
    ),
    Metric("kl", "KL to reference", "nats / token", "Estimate of the divergence from the initial policy (beta > 0)."),
    Metric(
        "loss",
        "Loss",
        "",
        "In RL near 0 by construction, as group advantages sum to 0; in SFT nats per solution token.",
    ),
    Metric("learning_rate", "Learning rate", "", "Of the step's last optimizer update."),
    Metric("clip_ratio/region_mean", "PPO clipping", "share", "Tokens whose ratio was clipped; 0 on the first pass."),
    Metric("clip_ratio/low_mean", "PPO clipping, low", "share", "Tokens clipped at 1 - epsilon."),
    Metric("clip_ratio/high_mean", "PPO clipping, high", "share", "Tokens clipped at 1 + epsilon_high."),
    Metric("cispo_clip_ratio", "CISPO cap", "share", "Tokens of positive advantage whose ratio exceeds epsilon_high."),
    Metric(
        "dynamic_sampling/generated_prompts",
        "Problems generated",
        "prompts",
        "Problems of the step, those included that were not learned from.",
    ),
    Metric(
        "dynamic_sampling/frac_mixed", "Mixed, of generated", "share", "Generated problems that some completions solve."
    ),
    Metric(
        "sampling/importance_sampling_ratio/mean",
        "Sampler correction",
        "",
        "Mean factor on the policy loss, after its bounds.",
    ),
    Metric(
        "sampling/sampling_logp_difference/mean",
        "Sampler mismatch, mean",
        "nats",
        "Mean |log p trainer - log p sampler| of the sampled tokens; rounding only, as both run one forward.",
    ),
    Metric("sampling/sampling_logp_difference/max", "Sampler mismatch, max", "nats", "The largest one of the step."),
    Metric(
        "exploration/novelty_mean",
        "Novelty",
        "",
        "Mean distance of a correct completion from its nearest neighbour: siblings and earlier visits.",
    ),
    Metric(
        "exploration/novelty_within_std", "Novelty spread in a group", "", "Running; what alpha is measured against."
    ),
    Metric("exploration/bonus_abs_mean", "Novelty bonus", "", "Mean absolute bonus of correct completions."),
    Metric(
        "exploration/bonus_to_advantage",
        "Bonus over advantage",
        "",
        "In mixed groups. Below about 0.05 the bonus is too weak to be seen.",
    ),
    Metric(
        "exploration/novelty_length_spearman", "Novelty and length", "", "Rank correlation; near 1, it pays length."
    ),
    Metric("exploration/hard_prompt_count", "Hard prompts", "prompts", "Prompts of the step that need help."),
    Metric("exploration/guided_injected", "Guided prompts", "prompts", "Prompts that came back with a prefix."),
    Metric("exploration/guided_queue_size", "Waiting prompts", "prompts", "Prefixes in the queue."),
    Metric("exploration/guided_pass_rate", "Guided pass rate", "share", "Correct completions behind a prefix."),
    Metric("exploration/regular_pass_rate", "Plain pass rate", "share", "Correct completions of plain prompts."),
    Metric(
        "exploration/transfer_drawn",
        "Next visit, regenerated",
        "share",
        "Pass rate of the plain prompt at its next visit after it was drawn from the queue.",
    ),
    Metric(
        "exploration/transfer_not_drawn",
        "Next visit, not drawn",
        "share",
        "The same for prompts that waited and were not drawn: the difference is what regeneration does.",
    ),
    Metric("exploration/easy_prompt_count", "Easy prompts", "prompts", "Prompts that come back with a failure prefix."),
    Metric("exploration/guided_pass_rate_hard", "Guided pass rate, hard", "share", "Prompts that failed."),
    Metric("exploration/guided_pass_rate_easy", "Pass rate, failure prefix", "share", "Of easy prompts."),
    Metric(
        "exploration/prefix_level_hard",
        "Length asked for",
        "share",
        "Of an attempt, by the length controller: it steers guided groups to target_pass_rate.",
    ),
    Metric("exploration/prefix_level_easy", "Length asked for, easy", "share", "The same for failure prefixes."),
    Metric(
        "exploration/truncated_text_share",
        "Texts cut by the encoder",
        "share",
        "Completions of which the encoder saw only the first max_pieces pieces (encoder.long_text=truncate).",
    ),
    Metric("judge/scored", "Judged", "share", "Rollouts for which the judge gave a score."),
    Metric("judge/score_correct", "Score when correct", "", "Mean judge score, 0 to 1, of verified correct rollouts."),
    Metric("judge/score_wrong", "Score when wrong", "", "Mean judge score of rollouts that the verifier calls wrong."),
    Metric("judge/auroc", "Judge AUROC", "share", "A verified correct rollout outscores a wrong one; 50 % is a coin."),
    Metric(
        "judge/drift",
        "Judge drift",
        "",
        "Rise of (mean score - pass rate) since the start. From 0.2 on the policy may be learning to please the judge.",
    ),
    Metric(
        "judge/segments_mean", "Segments", "", "Mean segments of a trace; a fall to 1 means that process rewards end."
    ),
    Metric(
        "distill/reverse_kl", "KL to teacher", "nats / token", "Student against the teacher that sees the reference."
    ),
    Metric("num_tokens", "Tokens so far", "tokens", "Prompt and completion tokens processed since step 0."),
    Metric("tokens_per_second", "Throughput", "tokens / s", "Completion tokens of the step over its wall time."),
    Metric("step_time", "Step time", "s", "Wall time of the step."),
    Metric("epoch", "Epoch", "", "Passes over the training problems."),
)

METRICS: dict[str, Metric] = {metric.key: metric for metric in _METRICS}


def phase_seconds(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The ``timing_s/*`` values of one step, phase name -> seconds, in the order in which they were logged."""
    return {
        key.removeprefix(TIMING_PREFIX): float(value)
        for key, value in metrics.items()
        if key.startswith(TIMING_PREFIX) and value is not None
    }
