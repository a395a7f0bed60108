"""Files that appear whole or not at all."""

import errno
import os
import re
from pathlib import Path

import pytest

from extra_jax.errors import ExtraError
from extra_jax.files import (
    disk_errors,
    is_remote,
    parse_json,
    read_json,
    read_json_object,
    read_text,
    replace_folder,
    whole_file,
    write_file,
)


def test_text_and_bytes_arrive_in_folders_that_were_not_there(tmp_path):
    assert write_file(tmp_path / "a" / "b" / "text", "größer\n").read_bytes() == "größer\n".encode()
    assert write_file(tmp_path / "a" / "b" / "text", b"\xff").read_bytes() == b"\xff"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["text"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = write_file(tmp_path / "numbers", "old")
    with pytest.raises(TypeError), whole_file(path) as file:
        file.write(b"half" + "half")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_the_bytes_are_on_disk_before_the_name_is(tmp_path, monkeypatch, moment):
    """Whichever of the two steps never happens, readers see the old content."""
    path = write_file(tmp_path / "numbers", "old")

    def killed(*_):
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    monkeypatch.setattr(*(("os.fsync", killed) if moment == "fsync" else (Path, "replace", killed)))
    with pytest.raises(KeyboardInterrupt):
        write_file(path, "new")
    assert path.read_text() == "old"


def test_a_folder_takes_the_place_of_another(tmp_path):
    for name in ("new", "old"):
        write_file(tmp_path / name / "deep" / "file", name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "deep" / "file").read_text() == "new"


def test_urls_are_told_from_paths():
    assert all(map(is_remote, ("gs://b/x", Path("gs://b/x"))))
    assert not any(map(is_remote, ("runs/a:b/x", "/x")))


BROKEN_JSON = {
    "truncated": b'{"a": 1',
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "digits": b'{"a": ' + b"9" * 5_000 + b"}",
    "binary": b"\xff\xfe\x00",
    "surrogate": b'{"a": "\\ud800"}',
}


@pytest.mark.parametrize("name", BROKEN_JSON)
def test_json_that_cannot_be_read_is_an_error_that_names_the_file(name, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(BROKEN_JSON[name])
    with pytest.raises(ExtraError, match=re.escape(str(path))):
        read_json(path)
    with pytest.raises(ExtraError, match="row 3"):
        parse_json(BROKEN_JSON[name], "data.jsonl, row 3")


def test_json_with_a_byte_order_mark_and_a_whole_surrogate_pair_is_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}')
    assert read_json_object(path) == {"a": "\N{GRINNING FACE}"}
    assert parse_json(path.read_bytes(), "x") == {"a": "\N{GRINNING FACE}"}


def test_a_pipe_a_folder_and_a_missing_file_are_errors_and_no_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "ordinary"), (tmp_path, "ordinary"), (tmp_path / "no", "no such file")):
        with pytest.raises(ExtraError, match=message):
            read_text(path)


def test_a_text_that_a_crash_has_zeroed_is_refused(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"a prompt\n" + bytes(100))
    with pytest.raises(ExtraError, match=r"p\.txt: holds NUL characters"):
        read_text(tmp_path / "p.txt")


def test_an_object_is_asked_for(tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ExtraError, match="expected a JSON object, found list"):
        read_json_object(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "x", "a/b"), "a/b: No space left on device. Make room on that disk and run"),
        (OSError(errno.EROFS, "x"), "mine: Read-only file system. Choose a place that can be written to and run"),
        (ValueError("writing: File too large [x]"), r"mine: File too large. Raise the limit on the size of files"),
    ],
)
def test_what_a_disk_refuses_is_a_named_error(error: Exception, message: str) -> None:
    with pytest.raises(ExtraError, match=message), disk_errors("mine"):
        raise error


def test_other_errors_are_not_of_the_disk() -> None:
    with pytest.raises(ValueError, match="wrong"), disk_errors("mine"):
        raise ValueError("wrong")


def test_a_folder_below_a_file_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExtraError, match=r"file.*(Not a directory|File exists)\. Choose a place"):
        write_file(tmp_path / "file" / "x", "text")
