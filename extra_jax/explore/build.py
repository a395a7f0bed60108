"""From settings, or from Python objects, to the ``Exploration`` of a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from extra_jax.config import Config
from extra_jax.config.loading import validated
from extra_jax.data.problem import Problem
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.doors import Registry, call_with
from extra_jax.errors import ExtraError
from extra_jax.exploration import Exploration
from extra_jax.explore import novelty, prefixes  # noqa: F401  they register what we ship
from extra_jax.explore.door import BONUSES, PROMPTS, PromptPolicy, RunInfo, Transform, chain
from extra_jax.explore.encoders import EncoderSettings
from extra_jax.explore.explorer import Explorer, reads_hidden_states

Made = TypeVar("Made", Transform, PromptPolicy)


def make_exploration(
    config: Config,
    problems: Sequence[Problem],
    prompt_ids: Mapping[str, list[int]],
    tokenizer: Tokenizer,
    explore: Sequence[Transform | PromptPolicy] | None = None,
) -> Exploration:
    """What a run explores with: ``explore``, or the transforms and prompt policies that ``config`` names.

    The other arguments are those of ``exploration.MakeExploration``.

    Raises:
        ExtraError: a name, a setting or an encoder that does not exist.
    """
    parts = configured(config) if explore is None else list(explore)
    transforms = [part for part in parts if isinstance(part, Transform)]
    policies = [part for part in parts if isinstance(part, PromptPolicy)]
    if strange := [part for part in parts if not isinstance(part, Transform | PromptPolicy)]:
        raise ExtraError(
            f"explore: {strange[0]!r} is neither a Transform nor a PromptPolicy; call it with its settings"
        )
    if not parts:
        return Exploration()
    run = RunInfo(
        problems={problem.uid: problem for problem in problems},
        prompt_ids=prompt_ids,
        tokenizer=tokenizer,
        seed=config.run.seed,
        max_steps=config.train.max_steps,
        prompts_per_step=config.train.prompts_per_step,
        group_size=config.train.num_generations,
        max_prompt_length=config.rollout.max_prompt_length,
        max_completion_length=config.rollout.max_completion_length,
        encoder=_encoder(config),
    )
    return Explorer(run, chain(*transforms), policies)


def needs_hidden_states(config: Config) -> bool:
    """Whether what ``explore`` names wants a scoring pass before the advantages, whatever the update needs."""
    transforms = [part for part in configured(config) if isinstance(part, Transform)]
    return reads_hidden_states(chain(*transforms), _encoder(config))


def configured(config: Config) -> list[Transform | PromptPolicy]:
    """The transforms and policies that ``explore.bonus`` and ``explore.prompts`` name, in that order."""
    bonuses, prompts = config.explore.bonus.items(), config.explore.prompts.items()
    return [
        *(_made(BONUSES, Transform, name, arguments) for name, arguments in bonuses if arguments is not None),
        *(_made(PROMPTS, PromptPolicy, name, arguments) for name, arguments in prompts if arguments is not None),
    ]


def _encoder(config: Config) -> EncoderSettings:
    return validated(EncoderSettings, config.explore.encoder, "explore.encoder")


def _made(registry: Registry[Callable[..., Made]], kind: type[Made], name: str, arguments: Mapping[str, Any]) -> Made:
    where = f"{registry.key}.{name}"
    result = call_with(registry.get(name), arguments, where)
    if not isinstance(result, kind):
        raise ExtraError(f"{where}: it gave {result!r:.80}, which is no {kind.__name__}; see docs/howto/own-bonus.md")
    return result
