"""SIGKILL at random moments: the run ends as if nothing had happened. ``benchmarks/chaos/kill.py`` has more kills."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos import kill

STEPS = 8


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    """Trains a tiny model with exploration, an evaluation and an export in a process of its own."""
    yield lambda run: kill.start("exploration", run, tmp_path / "cache")[0]
    kill.Process.stop_servers()


def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(start, tmp_path: Path) -> None:
    rng, run, reference = random.Random(16), tmp_path / "run", tmp_path / "reference"
    assert start(reference).status() == 0
    for _ in range(2):
        process, at, delay = start(run), rng.randint(1, STEPS - 1), rng.uniform(0, 0.3)
        while process.alive() and kill.lines(run) < at:
            time.sleep(0.005)
        time.sleep(delay)
        process.kill()
        assert process.status() == -9, (tmp_path / "run.log").read_text()[-2000:]
    assert start(run).status() == 0
    assert kill.compared(run, reference) == {"differences": [], "leftovers": []}
