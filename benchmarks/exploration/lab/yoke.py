"""Random controls as large as the bonus of an earlier run.

Sized by itself, a control follows the distances of its own completions, and so the policy that it trains. Yoked to a
run with the real bonus (arm N1) it is, step by step, as large as what that run paid, however the policies drift apart.

Matched are mean and deviation of the distances, before centring, scaling and caps act on them, and the mean absolute
bonus behind these. The first two alone would change little: centring takes the mean off, and ``scaling: std_matched``
divides by the deviation.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from extra_jax.config import load_config
from extra_jax.errors import ExtraError
from extra_jax.explore import RunInfo, Step, novelty
from extra_jax.explore.door import mean
from extra_jax.explore.encoders import EncoderSettings
from extra_jax.telemetry.files import CONFIG_FILE
from extra_jax.telemetry.metrics import read_metrics

_MEAN, _STD = "exploration/novelty_mean", "exploration/novelty_std"
_ALWAYS, _BONUS = "exploration/novelty_max", "exploration/bonus_abs_mean"


@dataclass(frozen=True)
class Recorded:
    """What a run logged of one step; all 0 where it had no correct completion to pay for.

    Attributes:
        mean, std: of the distances of correct completions; the deviation of a sample (``n - 1``).
        bonus: mean absolute bonus of a correct completion that had a distance.
    """

    mean: float
    std: float
    bonus: float

    def moments(self, count: int) -> tuple[float, float]:
        """Mean and population deviation of ``count`` distances whose sample deviation is ``std``."""
        return self.mean, self.std * (1.0 - 1.0 / count) ** 0.5 if count else 0.0


@dataclass(eq=False)
class Yoke:
    """A finished run with the real bonus.

    Attributes:
        folder: of the run.
        settings: of ``novelty`` in this run, which must be those of the other.
        steps: what was recorded, by step from 0; read by ``read``.
    """

    folder: Path
    settings: Mapping[str, Any]
    steps: dict[int, Recorded] = field(default_factory=dict)

    def read(self, run: RunInfo) -> None:
        """Every process of a run reads the folder itself.

        Raises:
            ExtraError: the folder holds no run, one that did not pay the real bonus under the same settings of novelty
                and encoder, or one that lacks a step of this run or a metric.
        """
        try:
            rows = {row["step"]: row for row in read_metrics(self.folder)}
            self._check_settings(run)
            if missing := [step for step in range(1, run.max_steps + 1) if step not in rows]:  # steps that are done
                raise ExtraError(
                    f"its metrics have no step {missing[0]}, and this run goes to step {run.max_steps}; let it get "
                    "there first, or lower train.max_steps"
                )
            self.steps = {step: _recorded(rows[step + 1]) for step in range(run.max_steps)}
        except ExtraError as error:
            raise ExtraError(f"yoked_to={self.folder}: {error}") from error

    def at(self, step: Step) -> Recorded:
        """What was recorded of the same step."""
        if not self.steps:
            self.read(step.run)
        return self.steps[step.index]

    def report(self, step: Step, used: np.ndarray, paid: np.ndarray) -> dict[str, float]:
        """How a control compares with the step that it is yoked to: ratios, 1 where they are equal.

        ``match_yoked_bonus`` stays below 1 where the caps leave no room for as large a bonus. Nothing is logged of a
        step in which the other run had nothing to pay for.
        """
        recorded = self.at(step)
        own = {"mean": mean(used), "std": np.std(used, ddof=1) if len(used) > 1 else np.nan, "bonus": mean(abs(paid))}
        pairs = {name: (value, getattr(recorded, name)) for name, value in own.items()}
        return {f"match_yoked_{name}": a / b if b else np.nan for name, (a, b) in pairs.items()}

    def _check_settings(self, run: RunInfo) -> None:
        """Refuses a run whose numbers mean something else."""
        path = self.folder / CONFIG_FILE
        if not path.is_file():
            raise ExtraError(f"{path} is missing: what its numbers mean is not known")
        other = load_config(path).explore
        if "novelty" not in other.bonus:
            raise ExtraError("this run did not pay the real bonus; name a run of arm N1 (or F)")
        before = _all_settings(other.bonus["novelty"]) | {"encoder": EncoderSettings(**other.encoder)}
        now = _all_settings(self.settings) | {"encoder": run.encoder}
        if differences := [f"{name}: {before[name]} -> {now[name]}" for name in now if before[name] != now[name]]:
            raise ExtraError("its novelty is another than this run's:\n  " + "\n  ".join(differences))


def _all_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """With the defaults of ``novelty`` where nothing is given."""
    call = inspect.signature(novelty).bind(**given)
    call.apply_defaults()
    return dict(call.arguments)


def _recorded(row: Mapping[str, Any]) -> Recorded:
    """A mean over nothing is left out of the log, so a step without correct completions has no mean, yet a maximum."""
    if row.get(_MEAN) is None and row.get(_ALWAYS) is not None:
        return Recorded(0.0, 0.0, 0.0)
    if absent := [name for name in (_MEAN, _BONUS) if row.get(name) is None]:
        raise ExtraError(f"step {row['step']} has no metric {absent[0]}; name a run that explored (arm N1)")
    return Recorded(row[_MEAN], row.get(_STD) or 0.0, row[_BONUS])  # a single completion has no deviation
