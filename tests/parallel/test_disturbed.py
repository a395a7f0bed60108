"""Two processes, of which one is disturbed: both are gone soon, with the message of the first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TROUBLES = {  # exit statuses of process 0 and 1, what each says
    "kill": ([75, -9], ["process 1 ", ""]),
    "error": ([2, 2], ["failed: the file is missing here", "test: the file is missing here"]),
    "bug": ([70, 70], ["failed: ZeroDivisionError: nobody expected this", "nobody expected this"]),
    "disk": ([2, 2], ["test: the disk is full", "the disk is full"]),
    "unshared": ([2, 2], ["process 1 on ", "is not one folder for all processes"]),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[int], list[str]]]:
    """Statuses and words by trouble; all pairs at once, as most of the time they wait."""
    folder = tmp_path_factory.mktemp("disturbed")
    command = [sys.executable, HERE / "disturbed_process.py", str(folder), *TROUBLES]
    environment = {"PYTHONPATH": str(HERE.parents[1]), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=280, check=True
    )
    said = {trouble: [(folder / f"{trouble}.{index}").read_text() for index in range(2)] for trouble in TROUBLES}
    return {trouble: (statuses, said[trouble]) for trouble, statuses in json.loads(done.stdout).items()}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_both_end_with_the_message_of_the_first(ended: dict, trouble: str) -> None:
    statuses, said = ended[trouble]
    expected, words = TROUBLES[trouble]
    assert statuses == expected, said
    for text, part in zip(said, words, strict=True):
        assert part in text
