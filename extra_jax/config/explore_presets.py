"""Presets and control arms of exploration, as differences.

A preset lists where it differs from the defaults of ``config/explore.py`` (which are ``corrected``); an arm lists what
it changes in its preset. Order: preset, arm, keys that the user wrote.
"""

from collections.abc import Mapping
from typing import Any

Tree = Mapping[str, Any]

_OFF = {"enabled": False}
_RELEASE: Tree = {
    "std_epsilon": 1e-6,
    "encoder": {"long_text": "truncate"},
    "novelty": {
        "pool_filter": "all",
        "capacity": "group",
        "min_history": "group",
        "centring": "none",
        "scaling": "raw",
        "alpha": 0.1,
        "cap": None,
        "cap_ratio": None,
        "guided": "ignore",
    },
    "prefix": {
        "max_truncated": None,
        "warmup_steps": 30,
        "source": "min_mte",
        "cut": "exact_ids",
        "fallback": False,
        "spacing": "floor",
        "drop_last": True,
        "min_tokens": 0,
        "max_fraction": None,
        "stop_at": (),
        "tie": "first",
        "memory_max_age": None,
        "queue_order": "fifo",
        "queue_max_age": None,
        "one_per_prompt": False,
        "slots": "last",
        "requeue": False,
        "budget": "full",
        "max_depth": None,
    },
}

PRESETS: dict[str, Tree] = {
    "grpo": {"novelty": _OFF, "prefix": _OFF},
    "corrected": {},
    "release_faithful": _RELEASE,
    "release_replica_with_bugs": {**_RELEASE, "prefix": {**_RELEASE["prefix"], "ground_truth": "displaced"}},
}


def _novelty(**changes: Any) -> Tree:
    return {"novelty": changes, "prefix": _OFF}


def _prefix(**changes: Any) -> Tree:
    return {"novelty": _OFF, "prefix": changes}


ARMS: dict[str, Tree] = {
    "G0": {"novelty": _OFF, "prefix": _OFF},
    "G1": {"novelty": _OFF, "prefix": _OFF},
    "G2": _novelty(control="constant", centring="none"),
    "N1": _novelty(),
    "N2": _novelty(control="permute_within"),
    "N3": _novelty(control="permute_across"),
    "N4": _novelty(control="gaussian"),
    "N5": _novelty(control="inverse"),
    "N6": _novelty(control="hash"),
    "L1": _novelty(metric="jaccard", quantile_map=True),
    "L2": _novelty(metric="ngram_count"),
    "L3": _novelty(metric="policy_surprise", surprise="per_token"),
    "P1": _prefix(),
    "P2": _prefix(smoothing="none"),
    "P3": _prefix(control="random"),
    "P4": _prefix(control="position_matched"),
    "P5": _prefix(direction="high"),
    "P6": _prefix(control="fresh"),
    "P7": _prefix(control="wrong_problem"),
    "P8": _prefix(budget="full"),
    "P9": _prefix(negative_advantage="clamp"),
    "F": {},
    "FR": {"novelty": {"control": "permute_within"}, "prefix": {"control": "random"}},
    "B0": {"preset": "release_faithful"},
    "B1": {"preset": "release_replica_with_bugs"},
}
"""Table c.1 of the method notes. G1 is G0 with more tokens: raise ``train.max_steps`` or ``num_generations``."""


def expand(raw: Tree) -> dict[str, Any]:
    """The keys of the section ``explore`` with those of its preset and arm filled in.

    An arm without a preset belongs to ``corrected`` (B0 and B1 to those of the release).
    """
    arm = ARMS.get(raw.get("arm") or "", {})
    preset = raw.get("preset") or arm.get("preset") or ("corrected" if arm or raw.get("arm") == "F" else "grpo")
    if raw.get("arm") in ARMS and (preset == "grpo" or preset != arm.get("preset", preset)):
        wanted = arm.get("preset", "corrected, release_faithful or release_replica_with_bugs")
        raise ValueError(f"arm {raw['arm']} needs preset {wanted}, not {preset}; leave explore.preset out")
    return _merge(_merge(_merge(PRESETS.get(preset, {}), arm), raw), {"preset": preset})


def _merge(below: Tree, above: Tree) -> dict[str, Any]:
    """``above`` over ``below``; sections are merged key by key."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
