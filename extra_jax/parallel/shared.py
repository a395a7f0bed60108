"""Whether all processes of a run see one and the same folder."""

import os
import secrets
import socket
import time
from pathlib import Path

import jax

from extra_jax.errors import ExtraError
from extra_jax.files import write_file
from extra_jax.parallel.processes import gather_objects, on_main

_SECONDS = 30  # after which what one machine wrote is seen by the others, if it ever is; buckets and NFS hold caches


def check_shared(directory: Path) -> None:
    """Refuses a folder that is not the same one for all processes, on all of them; they call it together.

    Raises:
        ExtraError: process 0 cannot write there, or others do not see what it wrote; which.
    """
    if jax.process_count() == 1:
        return
    path = directory / f".{gather_objects([secrets.token_hex(8)])[0]}.tmp"  # a name that no cache knows
    try:
        on_main(lambda: write_file(path, "seen by all processes of the run?"))
        deadline = time.monotonic() + _SECONDS
        while not (seen := path.name in _names(directory)) and time.monotonic() < deadline:
            time.sleep(0.2)
        where = f"process {jax.process_index()} on {socket.gethostname()}"
        answers = gather_objects([(where, seen)])
    finally:
        if jax.process_index() == 0:
            path.unlink(missing_ok=True)
    if blind := [where for where, seen in answers if not seen]:
        raise ExtraError(
            f"run.dir={directory} is not one folder for all processes: {', '.join(blind[:8])} of {len(answers)} "
            f"processes did not see within {_SECONDS} s what {answers[0][0]} wrote there. Mount the same disk or "
            "bucket on every machine and put run.dir on it (docs/start/pods.md)"
        )


def _names(directory: Path) -> list[str]:
    """What is in a folder: listed, because a disk over a network looks again for a list, not for a single name."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
