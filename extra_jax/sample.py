"""The ``sample`` verb: completions of prompts from the command line."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from extra_jax.checkpoint import restore_params
from extra_jax.config import Config
from extra_jax.data.load import load_data
from extra_jax.data.problem import Problem, Prompt
from extra_jax.errors import ExtraError
from extra_jax.reward.rewards import make_rewards
from extra_jax.reward.verdict import Grade
from extra_jax.rollout.types import Request, Rollouts
from extra_jax.run_dir import open_run
from extra_jax.runtime import load_policy, sampling_params

_logger = logging.getLogger(__name__)

_SHOWN = 4  # problems of data that are sampled where no prompt is given


@dataclass(frozen=True)
class Completion:
    """One sampled text.

    Attributes:
        prompt: What was asked.
        text: What the model wrote.
        tokens: How many, the stop token included.
        mean_entropy: Nats per token, temperature 1.
        stop_reason: Why it ended.
        rewards: What each reward function says, before weights; NaN: nothing. Empty unless asked for.
        reward: Their weighted sum; ``None`` where it is invalid or was not asked for.
        grade: Of the function that says ``correct``; ``None`` unless asked for.
    """

    prompt: Prompt
    text: str
    tokens: int
    mean_entropy: float
    stop_reason: str
    rewards: Mapping[str, float] = field(default_factory=dict)
    reward: float | None = None
    grade: Grade | None = None


def sample(
    config: Config, prompts: Sequence[Prompt | Problem], num_samples: int = 1, grade: bool = False
) -> list[Completion]:
    """Samples from the newest checkpoint of ``run.dir``, or from the initial model where there is none.

    Args:
        config: Of the run, or of none.
        prompts: Texts, chats, or problems; with ``grade`` by default the first four of ``data``.
        num_samples: Completions a prompt.
        grade: Reward the completions, too; a prompt that is no problem has an empty answer.

    Raises:
        ExtraError: no prompts, or one that is longer than ``rollout.max_prompt_length``.
    """
    if grade and not prompts:
        prompts = load_data(config.data, config.run.seed)[:_SHOWN]
    if not prompts:
        raise ExtraError("no prompts: give --prompt TEXT (repeatable) or --file FILE with one prompt a line")
    policy, params = load_policy(config)
    step, params = restore_params(params, config, open_run(config, concerns=("model", "tokenizer")))
    what = f"step {step} of {config.run.dir}" if step else f"the initial model: {config.run.dir} has no checkpoint"
    _logger.info("sampling from %s", what)
    problems = [p if isinstance(p, Problem) else Problem(f"prompt/{i}", p, "") for i, p in enumerate(prompts)]
    requests = [
        Request(policy.tokenizer.encode_prompt(problem.prompt), num_samples, index * num_samples)
        for index, problem in enumerate(problems)
    ]
    sampler = policy.sampler(sampling_params(config), stream="sample", training=False)
    rollouts = sampler.generate(policy.rollout_weights(params), requests, 0)
    texts = policy.decode(rollouts)
    opens = policy.opens_thinking(request.prompt_ids for request in requests)
    rewarded = (
        _rewarded(config, [problems[i] for i in rollouts.prompt_index], texts, rollouts, opens) if grade else None
    )
    return [
        Completion(
            problems[rollouts.prompt_index[row]].prompt,
            text,
            int(rollouts.lengths[row]),
            float(rollouts.entropies[row, : rollouts.lengths[row]].mean()),
            str(rollouts.stop_reasons[row]),
            *(rewarded[row] if rewarded else ()),
        )
        for row, text in enumerate(texts)
    ]


def _rewarded(
    config: Config, problems: Sequence[Problem], texts: Sequence[str], rollouts: Rollouts, opens: bool
) -> list[tuple[dict[str, float], float | None, Grade]]:
    """``[R]`` rewards by function, their sum, and the grade; ``opens``: the prompts open a thought."""
    longest = config.rollout.max_completion_length
    with closing(make_rewards(config.reward, config.data, longest, prompt_opens_thinking=opens)) as rewards:
        rewards.check(problems)
        scores = rewards(problems, texts, [rollouts.completion_ids(row) for row in range(len(rollouts))])
    return [
        (
            {name: float(part[row]) for name, part in scores.parts.items()},
            float(scores.rewards[row]) if scores.valid[row] else None,
            scores.grades[row],
        )
        for row in range(len(texts))
    ]
