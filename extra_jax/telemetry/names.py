"""Names of the metrics that are made of a prefix and a part; ``assets/report/metrics.yaml`` says what the others mean.

Names are TRL's where the concept exists there; the others are ours (``groups/*``, ``verdicts/*``, ``timing_s/*``).
"""

from collections.abc import Mapping
from typing import Any

TIMING_PREFIX = "timing_s/"
VERDICT_PREFIX = "verdicts/"
REWARD_PREFIX = "rewards/"


def phase_seconds(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The ``timing_s/*`` values of one step, phase name -> seconds, in the order in which they were logged."""
    return {
        key.removeprefix(TIMING_PREFIX): float(value)
        for key, value in metrics.items()
        if key.startswith(TIMING_PREFIX) and value is not None
    }
