"""What run.json says about each session of a run."""

import json
import os
import subprocess
import sys

import pytest

from extra_jax.provenance import begin_session, end_session, git_state


def read(folder):
    return json.loads((folder / "run.json").read_text())


def test_each_session_says_when_where_and_by_which_command(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text('{"jax": "1", "inputs": {"a": "b"}}')
    monkeypatch.setattr(sys, "argv", ["/bin/extra-jax", "train", "c.yaml", "judge.extra_headers={api_key: abcdefgh}"])
    begin_session(tmp_path, 0)
    end_session(tmp_path, 3, "stopped")
    begin_session(tmp_path, 3)
    facts = read(tmp_path)
    first, second = facts.pop("sessions")
    assert facts == {"jax": "1", "inputs": {"a": "b"}}
    assert (first["from_step"], first["to_step"], first["result"]) == (0, 3, "stopped")
    assert first["started"] <= first["ended"]
    assert first["command"].startswith("extra-jax train c.yaml")
    assert "abcdefgh" not in first["command"]
    assert first["host"] == os.uname().nodename
    assert second["from_step"] == 3
    assert "ended" not in second


@pytest.fixture
def repository(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.example")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    return tmp_path


def test_the_commit_and_whether_a_tracked_file_differs(repository):
    state = git_state(repository, "code")
    assert len(state["code_commit"]) == 40
    assert state["code_dirty"] is False
    (repository / "new").write_text("untracked files are no change")
    assert git_state(repository, "code") == state
    (repository / "a").write_text("2")
    assert git_state(repository, "code")["code_dirty"] is True


def test_outside_of_a_repository_there_is_no_commit(tmp_path):
    assert git_state(tmp_path, "code") == {}
    assert git_state(tmp_path / "missing", "code") == {}
