"""The ``sample`` verb: completions of prompts from the command line."""

from collections.abc import Sequence
from dataclasses import dataclass

from extra_jax.checkpoint import restore_params
from extra_jax.config import Config
from extra_jax.errors import ExtraError
from extra_jax.policy import load_policy, sampling_params
from extra_jax.rollout.types import Request
from extra_jax.run_dir import open_run


@dataclass(frozen=True)
class Completion:
    """One sampled text with its mean entropy (nats per token, temperature 1) and why it ended."""

    prompt: str
    text: str
    tokens: int
    mean_entropy: float
    stop_reason: str


def sample(config: Config, prompts: Sequence[str], num_samples: int = 1) -> list[Completion]:
    """Samples from the newest checkpoint of ``run.dir``, or from the initial model where there is none.

    Raises:
        ExtraError: no prompts, or one that is longer than ``rollout.max_prompt_length``.
    """
    if not prompts:
        raise ExtraError("no prompts: give --prompt TEXT (repeatable) or --file FILE with one prompt a line")
    policy, params = load_policy(config)
    _, params = restore_params(params, open_run(config, concerns=("model", "tokenizer")))
    requests = [
        Request(policy.tokenizer.encode_prompt(prompt), num_samples, index * num_samples)
        for index, prompt in enumerate(prompts)
    ]
    sampler = policy.sampler(sampling_params(config), stream="sample")
    rollouts = sampler.generate(policy.rollout_weights(params), requests, 0)
    return [
        Completion(
            prompts[rollouts.prompt_index[row]],
            text,
            int(rollouts.lengths[row]),
            float(rollouts.entropies[row, : rollouts.lengths[row]].mean()),
            str(rollouts.stop_reasons[row]),
        )
        for row, text in enumerate(policy.decode(rollouts))
    ]
