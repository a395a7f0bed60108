"""Exploration: bonuses on advantages and policies of prompts, small functions that are chained.

    ex.train("configs/quickstart.yaml", explore=[ex.explore.novelty(alpha=0.3), ex.explore.prefixes(source="correct")])

``docs/howto/own-bonus.md`` shows how to write one of your own.
"""

from extra_jax.explore.door import BONUSES, PROMPTS, PromptPolicy, PromptStep, Transform, bonus, chain, stateless
from extra_jax.explore.novelty import cap, correct_only, distance, novelty, standardise
from extra_jax.explore.prefixes import prefixes
from extra_jax.explore.step import RunInfo, Step

__all__ = [
    "BONUSES",
    "PROMPTS",
    "PromptPolicy",
    "PromptStep",
    "RunInfo",
    "Step",
    "Transform",
    "bonus",
    "cap",
    "chain",
    "correct_only",
    "distance",
    "novelty",
    "prefixes",
    "standardise",
    "stateless",
]
