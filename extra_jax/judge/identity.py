"""Who judged: everything that a score depends on besides the trace, and the name that follows from it."""

import hashlib
import json
from typing import Any

from extra_jax.config import JudgeConfig
from extra_jax.errors import ExtraError
from extra_jax.judge.rubric import Rubric, load_rubric

WRONG_REFERENCE_SEED = 0xC0DE
"""Decides which other problem's reference the condition ``wrongref`` shows."""


def choose_rubric(config: JudgeConfig) -> Rubric:
    """The rubric that a configuration asks with.

    Raises:
        ExtraError: no such rubric, or condition and rubric do not fit.
    """
    rubric = load_rubric(config.rubric)
    if config.condition == "noref":
        if rubric.no_reference is None:
            raise ExtraError(f"rubric {rubric.name} has no twin without a reference, so condition=noref has no meaning")
        return load_rubric(rubric.no_reference)
    if config.condition == "wrongref" and not rubric.reference:
        raise ExtraError(f"rubric {rubric.name} shows no reference, so condition=wrongref has no meaning")
    return rubric


def judge_card(config: JudgeConfig, rubric: Rubric) -> dict[str, Any]:
    """What ``judge.json`` says: everything that the scores depend on."""
    asked = ("model", "condition", "scoring", "samples", "temperature", "max_tokens", "extra_body")
    return {
        **{key: getattr(config, key) for key in asked},
        "wrongref_seed": WRONG_REFERENCE_SEED,
        "asked_for": config.rubric,
        "rubric": rubric.name,
        "rubric_sha": {domain: rubric.sha(domain) for domain in rubric.system},
        "unit": rubric.unit,
    }


def judge_id(config: JudgeConfig, rubric: Rubric) -> str:
    """Folder name of a judge's scores: readable, and different for whatever can change a score."""
    card = json.dumps(judge_card(config, rubric), sort_keys=True)
    model = "".join(c if c.isalnum() or c in "-." else "-" for c in str(config.model).rpartition("/")[2])
    condition = "" if config.condition == "ref" else f"-{config.condition}"
    return f"{model}-{rubric.name}{condition}-{hashlib.sha256(card.encode()).hexdigest()[:8]}"
