"""Random controls as large as the bonus of an earlier run: ``novelty.match: yoked`` (method/extra.md c.2).

With ``match: self`` a control follows the distances of its own rollouts, and so the policy that it trains. Yoked to a
run with the real bonus (arm N1) it is, step by step, as large as what that run paid, however the policies drift apart.

Matched are mean and deviation of the distances, before centring, scaling and caps act on them, and the mean absolute
bonus behind these. The first two alone would change little: centring takes the mean off, and ``scaling: std_matched``
divides by the deviation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extra_jax.config import Config, config_differences, load_config
from extra_jax.errors import ExtraError
from extra_jax.telemetry.files import CONFIG_FILE
from extra_jax.telemetry.metrics import read_metrics

_KEY = "explore.novelty.yoked_to"
_MEAN, _STD = "exploration/novelty_mean", "exploration/novelty_std"
_ALWAYS, _BONUS = "exploration/novelty_max", "exploration/bonus_abs_mean"
_MAY_DIFFER = ("control", "match", "yoked_to")


@dataclass(frozen=True)
class Recorded:
    """What a run logged of one step; all 0 where it had no correct completion to pay for.

    Attributes:
        mean, std: of the distances of correct completions; the deviation of a sample (``n - 1``).
        bonus: mean absolute bonus of a correct completion.
    """

    mean: float
    std: float
    bonus: float

    def moments(self, count: int) -> tuple[float, float]:
        """Mean and population deviation of ``count`` distances whose sample deviation is ``std``."""
        return self.mean, self.std * (1.0 - 1.0 / count) ** 0.5 if count else 0.0


def read_recorded(config: Config) -> dict[int, Recorded]:
    """What the run ``explore.novelty.yoked_to`` logged, by step of this run (from 0); empty unless ``match: yoked``.

    Imports no jax. Every process of a run reads the folder itself.

    Raises:
        ExtraError: the folder holds no run, one that did not pay the real bonus under the same settings of novelty and
            encoder, or one that lacks a step of this run or a metric.
    """
    if config.explore.novelty.match == "self":
        return {}
    folder = Path(config.explore.novelty.yoked_to)
    try:
        rows = {row["step"]: row for row in read_metrics(folder)}
        _check_settings(folder, config)
    except ExtraError as error:
        raise ExtraError(f"{_KEY}={folder}: {error}") from error
    steps = range(1, config.train.max_steps + 1)  # a line counts the steps done
    if missing := [step for step in steps if step not in rows]:
        raise ExtraError(
            f"{_KEY}={folder}: its metrics have no step {missing[0]}, and this run goes to step {len(steps)}; let it "
            "get there first, or lower train.max_steps"
        )
    return {step - 1: _recorded(rows[step], folder) for step in steps}


def _check_settings(folder: Path, config: Config) -> None:
    """Refuses a run whose numbers mean something else."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ExtraError(f"{path} is missing: what its numbers mean is not known")
    other = load_config(path)
    if not other.explore.novelty.enabled or other.explore.novelty.control != "none":
        raise ExtraError("this run did not pay the real bonus; name a run of arm N1 (or F)")
    others = set(Config.model_fields) - {"explore"}
    of_explore = set(type(config.explore).model_fields) - {"novelty", "encoder"}
    ignored = [*others, *(f"explore.{key}" for key in of_explore), *(f"explore.novelty.{key}" for key in _MAY_DIFFER)]
    if differences := config_differences(other, config, ignored):
        raise ExtraError("its novelty is another than this run's:\n  " + "\n  ".join(differences))


def _recorded(row: Mapping[str, Any], folder: Path) -> Recorded:
    """A mean over nothing is left out of the log, so a step without correct completions has no mean, yet a maximum."""
    if row.get(_MEAN) is None and row.get(_ALWAYS) is not None:
        return Recorded(0.0, 0.0, 0.0)
    if absent := [name for name in (_MEAN, _BONUS) if row.get(name) is None]:
        raise ExtraError(
            f"{_KEY}={folder}: step {row['step']} has no metric {absent[0]}; name a run that explored (arm N1)"
        )
    return Recorded(row[_MEAN], row.get(_STD) or 0.0, row[_BONUS])  # a single completion has no deviation
