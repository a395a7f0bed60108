"""Compiled programs are kept for the next run, and where is the user's to say."""

import logging
from pathlib import Path

import jax
import pytest

from extra_jax.parallel.compiled import keep_programs


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What is changed in the configuration of jax, and is not changed for the other tests."""
    changed: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", changed.__setitem__)
    return changed


def test_programs_are_kept_below_the_users_caches(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_programs()
    folder = Path(str(changes["jax_compilation_cache_dir"]))
    assert folder.is_dir()
    assert folder.parent == tmp_path / "extra_jax" / "programs"


@pytest.mark.parametrize("chosen", ["", "/elsewhere"])
def test_a_folder_that_the_user_names_stays_and_an_empty_one_keeps_nothing(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", chosen)
    keep_programs()
    assert not changes


def test_a_home_that_cannot_be_written_to_is_said_and_the_run_goes_on(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="extra_jax"):
        keep_programs()
    assert not changes
    assert "compiled programs are not kept" in caplog.text
