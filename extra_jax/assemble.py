"""From a configuration to a training: what the verb ``train`` runs. ``train.py`` itself knows no exploration."""

from collections.abc import Mapping, Sequence

from extra_jax.config import Config
from extra_jax.data.problem import Problem
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.errors import ExtraError
from extra_jax.exploration import Exploration
from extra_jax.explore.build import make_exploration
from extra_jax.explore.door import PromptPolicy, Transform
from extra_jax.learn.advantage import Advantage
from extra_jax.run import TrainResult
from extra_jax.stages import Callback
from extra_jax.train import train as train_grpo


def train(
    config: Config,
    *,
    problems: Sequence[Problem] | None = None,
    advantage: Advantage | None = None,
    explore: Sequence[Transform | PromptPolicy] | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """GRPO with the exploration that ``config.explore`` describes, or with ``explore`` in its place.

    The other arguments are those of ``extra_jax.train.train``.

    Raises:
        ExtraError: bad input, found before the first step wherever possible.
    """
    if explore and config.train.max_num_gen_batches > 1:  # of what the configuration names, it says so itself
        raise ExtraError(
            f"train.max_num_gen_batches={config.train.max_num_gen_batches} throws away the groups that exploration "
            "works on; set it to 1"
        )

    def make(problems: Sequence[Problem], prompts: Mapping[str, list[int]], tokenizer: Tokenizer) -> Exploration:
        return make_exploration(config, problems, prompts, tokenizer, explore)

    return train_grpo(config, problems=problems, advantage=advantage, explore=make, callbacks=callbacks)
