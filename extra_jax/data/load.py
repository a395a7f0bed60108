"""The problems that a section of the configuration describes, and their tokens."""

from collections.abc import Iterable

from extra_jax.config import Config, DataConfig
from extra_jax.data.fetch import located
from extra_jax.data.problem import Problem
from extra_jax.data.sources import load_problems
from extra_jax.data.tokenizer import Tokenizer, load_tokenizer
from extra_jax.errors import ExtraError
from extra_jax.model.config import TINY_BASE, Qwen3Config, is_hub_name, model_folder


def load_data(data: DataConfig, seed: int, folder: str = "") -> list[Problem]:
    """Loads a ``data`` section, in a fixed order.

    Args:
        seed: of generated problems, and of the choice under ``limit``.
        folder: where standard sets (``math500``, ...) are looked for.

    Raises:
        ExtraError: a file that is missing, or a row that is damaged.
    """
    return load_problems(
        located(data.source, folder),
        split=data.split,
        seed=seed,
        limit=data.limit,
        prompt_template=data.prompt_template,
        system=data.system,
        columns=data.columns or None,
        **data.task,
    )


def model_tokenizer(config: Config) -> Tokenizer:
    """The tokenizer that is named, or else that of the model.

    Raises:
        ExtraError: it does not load.
    """
    path, model = config.tokenizer.path, config.model.path
    if path is None:
        path = "tiny" if model in (None, TINY_BASE) else str(model_folder(model)) if is_hub_name(model) else model
    return load_tokenizer(path, config.tokenizer.chat_template_kwargs)


def check_vocabulary(tokenizer: Tokenizer, model: Qwen3Config) -> None:
    """Refuses a tokenizer with more tokens than the model."""
    if tokenizer.vocab_size > model.vocab_size:
        raise ExtraError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {model.vocab_size}: "
            "set tokenizer.path to the tokenizer of the model"
        )


def encode_prompts(tokenizer: Tokenizer, problems: Iterable[Problem], limit: int) -> dict[str, list[int]]:
    """Token ids of each prompt by problem uid.

    Raises:
        ExtraError: prompts longer than ``limit``; how many, the longest, and the remedy.
    """
    prompts = {problem.uid: tokenizer.encode_prompt(problem.prompt) for problem in problems}
    if too_long := {uid: len(ids) for uid, ids in prompts.items() if len(ids) > limit}:
        uid, longest = max(too_long.items(), key=lambda item: item[1])
        raise ExtraError(
            f"{len(too_long)} of {len(prompts)} prompts are longer than rollout.max_prompt_length={limit} tokens; "
            f"the longest is {uid} with {longest}. Set rollout.max_prompt_length={longest} or remove them"
        )
    return prompts


def encode_solutions(
    tokenizer: Tokenizer, problems: Iterable[Problem], row_length: int
) -> dict[str, tuple[list[int], list[int]]]:
    """Token ids of each prompt and of its solution by problem uid.

    Raises:
        ExtraError: a problem without a solution, or with more tokens than ``row_length``.
    """
    pairs = {}
    for problem in problems:
        if problem.solution is None:
            raise ExtraError(f"problem {problem.uid} has no solution; SFT needs one for every problem")
        prompt, target = tokenizer.encode_prompt(problem.prompt), tokenizer.encode_target(problem.solution)
        pairs[problem.uid] = prompt, target
        if (length := len(prompt) + len(target)) > row_length:
            raise ExtraError(
                f"problem {problem.uid}: prompt and solution are {length} tokens, more than sft.row_length={row_length}"
            )
    return pairs
