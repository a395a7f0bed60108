"""What is compiled is announced when it takes long, and kept for the next command."""

import logging
import os
import subprocess
import sys
import time

import pytest

from extra_jax.cli import compiling
from extra_jax.cli.compiling import Announcer

EVENT = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def said(monkeypatch, tmp_path, caplog):
    """What is announced, without patience: a timer that has waited is one that says so at once."""
    monkeypatch.setattr(compiling, "_folder", lambda: tmp_path)
    monkeypatch.setattr(compiling, "_PATIENCE", 0.0)
    with caplog.at_level(logging.INFO, logger="extra_jax"):
        yield caplog


def wait_for_a_line(said):
    for _ in range(500):
        if said.messages:
            return
        time.sleep(0.01)


def test_the_first_time_is_announced_and_the_second_one_with_its_seconds(said):
    announcer = Announcer("tiny")
    announcer.began(EVENT, 0.0, fun_name="jit(update)")
    wait_for_a_line(said)
    assert said.messages == ["compiling the update, for the first time here ..."]
    announcer.ended(EVENT, 24.6, fun_name="jit(update)")
    said.clear()
    Announcer("tiny").began(EVENT, 0.0, fun_name="jit(update)")
    wait_for_a_line(said)
    assert said.messages == ["compiling the update, about 25 s ..."]
    said.clear()
    Announcer("another model").began(EVENT, 0.0, fun_name="jit(update)")
    wait_for_a_line(said)
    assert "first time" in said.messages[0]


def test_what_ends_at_once_and_other_events_are_not_announced(monkeypatch, said):
    monkeypatch.setattr(compiling, "_PATIENCE", 60.0)
    announcer = Announcer("tiny")
    announcer.began("/jax/core/compile/jaxpr_trace_duration", 0.0, fun_name="update")
    announcer.ended("/jax/core/compile/jaxpr_trace_duration", 9.0, fun_name="update")
    announcer.began(EVENT, 0.0, fun_name="jit(update)")
    timer = announcer._waiting["jit(update)"]
    announcer.ended(EVENT, 0.1, fun_name="jit(update)")
    assert timer.finished.is_set()
    assert not said.messages
    assert not announcer._known()


def test_a_damaged_memory_is_no_error(said, tmp_path):
    (tmp_path / compiling.SECONDS).write_text("{")
    announcer = Announcer("tiny")
    announcer.began(EVENT, 0.0, fun_name="jit(strange)")
    wait_for_a_line(said)
    assert said.messages == ["compiling a program (strange), for the first time here ..."]


def test_jax_tells_of_the_programs_that_it_compiles_and_keeps_them(tmp_path):
    """In a process of its own, because jax opens the folder once; one that the user names stays."""
    program = (
        "import jax, jax.numpy as jnp\nfrom extra_jax.cli import compiling\n"
        "from extra_jax.parallel.compiled import keep_programs\nkeep_programs()\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "from extra_jax.cli.compiling import Announcer, announce\n"
        "compiling._PATIENCE = -1.0\nAnnouncer._announce = lambda self, name: None\nannounce('m')\n"
        "def update(x): return jnp.sin(x) @ x\n"
        "jax.jit(update)(jnp.ones((4, 4)))\nprint(jax.config.jax_compilation_cache_dir)\n"
    )
    chosen = "JAX_COMPILATION_CACHE_DIR"
    plain = {name: value for name, value in os.environ.items() if name != chosen} | {"XDG_CACHE_HOME": str(tmp_path)}
    for own in ({}, {chosen: str(tmp_path / "own")}):
        done = subprocess.run(
            [sys.executable, "-c", program], env=plain | own, capture_output=True, text=True, check=True
        )
        folder = done.stdout.strip()
        assert folder == own.get(chosen, folder)
        assert folder.startswith(str(tmp_path))
        assert '"m: update"' in (tmp_path / folder / compiling.SECONDS).read_text()
        assert any(name.startswith("jit_update") for name in os.listdir(folder))
