"""The reward functions of the package that are no graders: format, length, and DAPO's overlong shaping.

They are ordinary reward functions (``docs/howto/own-reward.md``): copy one to write your own.
"""

import re
from collections.abc import Sequence

from extra_jax.reward.door import completion_text, reward

THINK_THEN_BOX = r"\s*<think>(?!.*<think>).*</think>(?!.*</think>).*\\boxed\{.*\}.*"
"""Thinking that is opened and closed once, then a box."""


@reward(name="format")
def format_reward(completions: list, pattern: str = THINK_THEN_BOX) -> list[float]:
    """1 where the whole completion matches the regular expression ``pattern`` (``.`` matches newlines), else 0."""
    compiled = re.compile(pattern, re.DOTALL)
    return [float(compiled.fullmatch(completion_text(completion)) is not None) for completion in completions]


@reward(in_process=True)
def length(completion_ids: Sequence[Sequence[int]], longest: int, shortest: int = 0, span: int = 100) -> list[float]:
    """0 for ``shortest`` to ``longest`` tokens; outside it falls linearly over ``span`` tokens to -1."""
    excess = (max(shortest - len(ids), len(ids) - longest, 0) for ids in completion_ids)
    return [max(-1.0, -tokens / span) for tokens in excess]


@reward(in_process=True)
def overlong(completion_ids: Sequence[Sequence[int]], max_completion_length: int, cache: int) -> list[float]:
    """0 up to ``max_completion_length - cache`` tokens, then linear to -1 at ``max_completion_length``.

    Source: DAPO eq. 13 (arXiv 2503.14476); TRL ``get_soft_overlong_punishment``.
    """
    over = (len(ids) - (max_completion_length - cache) for ids in completion_ids)
    return [max(-1.0, min(0.0, -tokens / cache)) for tokens in over]
