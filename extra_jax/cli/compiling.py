"""Programs that are compiled are announced while a person waits."""

import json
import logging
import os
import sys
import threading
from pathlib import Path

from extra_jax.errors import ExtraError
from extra_jax.files import read_json_object, write_file

_logger = logging.getLogger(__name__)

SECONDS = "seconds.json"  # beside the programs that are kept: how long each of them took
_PATIENCE = 2.0  # seconds that need no explanation
_COMPILES = "/jax/core/compile/backend_compile_duration"
_WORDS = {
    "update": "the update",
    "score_all": "the scoring of the step",
    "prefill": "the sampler (prompts)",
    "decode_chunk": "the sampler",
    "load": "the sampler's cache",
    "select": "the sampler's cache",
    "clone": "the sampler's cache",
    "resize": "the sampler's cache",
    "convert": "the copy of the weights for the sampler",
    "init_fn": "the first state of the optimizer",
    "_checksums": "the digests of a checkpoint",
}


def _folder() -> Path | None:
    """Where compiled programs are kept (``parallel/compiled.py``), if that is a folder of this machine."""
    import jax

    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # jax sets it by name
    return Path(folder) if folder and "://" not in folder else None


class Announcer:
    """Says what is compiled when it takes more than two seconds, and how long the same took last time.

    Args:
        subject: What the programs belong to: the model. Programs of the same name for another one take another time.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._waiting: dict[str, threading.Timer] = {}

    def began(self, event: str, value: float, **details: str | int) -> None:
        """Listens to jax: a compilation begins."""
        fun_name = str(details.get("fun_name", ""))
        if event == _COMPILES:
            name = fun_name.removeprefix("jit(").removesuffix(")")
            timer = threading.Timer(_PATIENCE, self._announce, (name,))
            timer.daemon = True
            self._waiting[fun_name] = timer
            timer.start()

    def ended(self, event: str, duration_secs: float, **details: str | int) -> None:
        """Listens to jax: a compilation has ended."""
        fun_name = str(details.get("fun_name", ""))
        if event == _COMPILES and fun_name in self._waiting:
            self._waiting.pop(fun_name).cancel()
            if duration_secs > _PATIENCE:
                self._remember(fun_name.removeprefix("jit(").removesuffix(")"), duration_secs)

    def _announce(self, name: str) -> None:
        import jax

        if jax.process_index():  # one of them says it
            return
        seconds = self._known().get(self._key(name))
        how_long = "for the first time here" if seconds is None else f"about {seconds:.0f} s"
        _logger.info("compiling %s, %s ...", _WORDS.get(name, f"a program ({name})"), how_long)

    def _key(self, name: str) -> str:
        return f"{self._subject}: {name}"

    def _known(self) -> dict[str, float]:
        path = (_folder() or Path(os.devnull)) / SECONDS
        try:
            return read_json_object(path) if path.is_file() else {}
        except ExtraError:  # only an estimate; it is written anew
            return {}

    def _remember(self, name: str, seconds: float) -> None:
        if (folder := _folder()) is not None:
            try:
                write_file(folder / SECONDS, json.dumps(self._known() | {self._key(name): round(seconds, 1)}))
            except (OSError, ExtraError) as error:
                _logger.debug("the time of a compilation cannot be kept: %s", error)


def announce(subject: str) -> None:
    """Announces compilations from now on, once for a process."""
    global _announcer
    if _announcer is None and sys.modules.get("jax"):
        import jax.monitoring

        _announcer = Announcer(subject)
        jax.monitoring.register_scalar_listener(_announcer.began)
        jax.monitoring.register_event_duration_secs_listener(_announcer.ended)


_announcer: Announcer | None = None
