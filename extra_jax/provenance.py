"""Where numbers come from: what ``run.json`` says about each session of a run.

A session is from one start of the command to its end; a session that was killed or failed has no ``ended``.
"""

import datetime as dt
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from extra_jax.errors import redact
from extra_jax.files import read_json_object, write_file
from extra_jax.telemetry.files import RUN_FILE

SESSIONS = "sessions"
_GIT_SECONDS = 10.0


def begin_session(directory: Path, step: int) -> None:
    """Notes that training goes on from ``step``: when, where, by which command and which code."""
    session = {
        "started": _now(),
        "from_step": step,
        "command": redact(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "folder": os.getcwd(),
        "host": socket.gethostname(),
        **git_state(Path(__file__).parent, "extra_jax"),
        **git_state(Path.cwd(), "folder"),
    }
    facts = _facts(directory)
    _write(directory, facts | {SESSIONS: [*facts.get(SESSIONS, []), session]})


def end_session(directory: Path, step: int, result: str) -> None:
    """Notes the end of the session that began last.

    Args:
        step: finished steps.
        result: ``finished`` or ``stopped``.
    """
    facts = _facts(directory)
    *earlier, last = facts[SESSIONS]
    _write(directory, facts | {SESSIONS: [*earlier, last | {"ended": _now(), "to_step": step, "result": result}]})


def git_state(folder: Path, name: str) -> dict[str, Any]:
    """``{NAME_commit: hash, NAME_dirty: whether a tracked file differs from it}``; empty outside of a repository."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, a repository of somebody else
        return {}
    return {f"{name}_commit": commit, f"{name}_dirty": bool(changes)}


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _facts(directory: Path) -> dict[str, Any]:
    path = directory / RUN_FILE
    return read_json_object(path) if path.exists() else {}


def _write(directory: Path, facts: dict[str, Any]) -> None:
    write_file(directory / RUN_FILE, json.dumps(facts, indent=2))
