"""The arms of the experiment plan: the section ``explore`` of each.

    python benchmarks/exploration/run.py --arms N1 N2 --seeds 0 1 2

An arm without a bonus, or without guided prompts, reports all the same what these would have seen.
"""

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from extra_jax.config.explore import PRESETS

Settings = dict[str, Any]

_NOVELTY, _PREFIXES = "novelty", "prefixes"  # by name; what has a file is of the laboratory
_PROPOSALS = "replica.py:proposals"
_RELEASE: Settings = PRESETS["release_faithful"]


class Arm(NamedTuple):
    """Attributes:
    bonus: which bonus, ``""`` for none, and its settings.
    prompts: which prompt policy, and its settings.
    clamp: whether advantages behind a prefix are not negative.
    encoder: settings that differ from the defaults.
    advantage: another estimator than GRPO's, or other settings of it.
    """

    bonus: tuple[str, Settings] = ("", {})
    prompts: tuple[str, Settings] = (_PROPOSALS, {})
    clamp: bool = False
    encoder: Settings = {}  # noqa: RUF012
    advantage: Settings | None = None


def _control(name: str, **settings: Any) -> tuple[str, Settings]:
    return "controls.py:control", {"control": name, **settings}


def _prefix(choose: str | None = None, **settings: Any) -> tuple[str, Settings]:
    return _PREFIXES, settings | ({} if choose is None else {"choose": f"choosers.py:{choose}"})


_REAL, _EXTRA = (_NOVELTY, {}), _prefix()
_S3 = _prefix(source="correct", failures=True)
_B0 = Arm(
    (_NOVELTY, _RELEASE["bonus"][_NOVELTY]),
    _prefix(**_RELEASE["prompts"][_PREFIXES]),
    encoder=_RELEASE["encoder"],
    advantage={"function": "grpo", "args": {"epsilon": 1e-6}},
)

ARMS: dict[str, Arm] = {
    "G0": Arm(),
    "G1": Arm(),
    "G2": Arm(_control("constant", centring="none")),
    "N1": Arm(_REAL),
    "N2": Arm(_control("permute_within")),
    "N3": Arm(_control("permute_across")),
    "N4": Arm(_control("gaussian")),
    "N5": Arm(_control("inverse")),
    "N6": Arm(_control("hash")),
    "L1": Arm(("metrics.py:jaccard", {})),
    "L2": Arm(("metrics.py:ngram_count", {})),
    "L3": Arm(("metrics.py:policy_surprise", {})),
    "P1": Arm(prompts=_EXTRA),
    "P2": Arm(prompts=_prefix(smoothing="none")),
    "P3": Arm(prompts=_prefix("at_random")),
    "P4": Arm(prompts=_prefix("position_matched")),
    "P5": Arm(prompts=_prefix("highest_entropy")),
    "P6": Arm(prompts=_prefix("fresh")),
    "P7": Arm(prompts=_prefix("wrong_problem")),
    "P8": Arm(prompts=_prefix(budget="full")),
    "P9": Arm(prompts=_EXTRA, clamp=True),
    "F": Arm(_REAL, _EXTRA),
    "FR": Arm(_control("permute_within"), _prefix("at_random")),
    "B0": _B0,
    "B1": _B0._replace(prompts=("replica.py:graded_against_displaced", _B0.prompts[1])),
    "S1": Arm(prompts=_prefix("half", source="correct", smoothing="none")),
    "S2": Arm(prompts=_prefix(source="correct")),
    "S3": Arm(prompts=_S3),
    "F2": Arm(_REAL, _S3),
    "M1": Arm(advantage={"function": "maxrl"}),
    "K8": Arm(advantage={"function": "pass_at_k", "args": {"k": 8}}),
}
"""G1 is G0 with more tokens: raise ``train.max_steps`` or ``num_generations``. S1 to S3 are success and failure
prefixes; F2 has the bonus besides. M1 and K8 are positive controls: MaxRL and the pass@8 advantage."""


def explore(name: str, base: Mapping[str, Any] | None = None, lab: str | Path | None = None) -> Settings:
    """The section ``explore`` of an arm.

    Args:
        name: of ``ARMS``.
        base: a section whose ``encoder`` and settings of ``novelty`` and ``prefixes`` win over the arm's.
        lab: this folder; default: as it is reached from the current one.
    """
    arm, base = ARMS[name], deepcopy(dict(base or {}))
    lab = os.path.relpath(Path(__file__).parent) if lab is None else lab
    novelty = base.get("bonus", {}).get(_NOVELTY) or {}
    pool = {key: value for key, value in novelty.items() if key.startswith(("pool", "capacity", "min_", "remember"))}
    bonuses = {arm.bonus[0]: arm.bonus[1] | novelty, "choosers.py:no_negative_advantage": {} if arm.clamp else None}
    bonuses["diagnostics.py:diagnostics"] = pool
    prompts = arm.prompts[1] | (base.get("prompts", {}).get(_PREFIXES) or {})
    if prompts.get("choose", "").startswith("choosers.py:"):
        prompts["choose"] = f"{lab}/{prompts['choose']}"

    def located(names: Mapping[str, Settings | None]) -> dict[str, Settings]:
        used = {key: value for key, value in names.items() if key and value is not None}
        return {f"{lab}/{key}" if ".py" in key else key: value for key, value in used.items()}

    return {
        "preset": "grpo",
        "encoder": arm.encoder | base.get("encoder", {}),
        "bonus": located(bonuses),
        "prompts": located({arm.prompts[0]: prompts}),
    }


def overrides(name: str, base: Mapping[str, Any] | None = None, lab: str | Path | None = None) -> list[str]:
    """``key=value`` arguments that make a run one of the arm."""
    keys: Settings = {"explore": explore(name, base, lab)}
    if (advantage := ARMS[name].advantage) is not None:
        keys["train.advantage"] = advantage
    return [
        f"{key}={yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip()}"
        for key, value in keys.items()
    ]
