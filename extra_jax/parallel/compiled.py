"""Compiled programs are kept on the disk, so that a run that continues, or another one of the same shapes, does not
compile them again."""

import hashlib
import logging
import os
import platform
from pathlib import Path

import jax

_SHORTEST = 0.2  # seconds of compiling that are worth a file
_LARGEST = 4 * 2**30  # bytes of the folder; what was not used for longest goes first

_logger = logging.getLogger("extra_jax")


def keep_programs() -> None:
    """Keeps programs below ``~/.cache/extra_jax`` (``XDG_CACHE_HOME``), apart for each kind of processor, unless
    ``JAX_COMPILATION_CACHE_DIR`` says where; empty, it says nowhere."""
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]  # jax sets it by name
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "extra_jax" / "programs" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _logger.warning("compiled programs are not kept, so that the next run compiles them again: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)
    jax.config.update("jax_compilation_cache_max_size", _LARGEST)


def _processor() -> str:
    """Names what machine code depends on: a home folder may be that of different machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"
