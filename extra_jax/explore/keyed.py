"""Random numbers of exploration: functions of identity, never of order, devices or processes.

See docs/design.md, decision 6.
"""

import hashlib
import json

import numpy as np


def keyed_rng(*key: int | str) -> np.random.Generator:
    """A generator whose whole stream is decided by ``key``, e.g. ``("permute", seed, step, uid)``."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


def keyed_uniform(*key: int | str) -> float:
    """One number in [0, 1) of ``key``; the same stream as ``keyed_rng``'s would be too slow to start per row."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64
