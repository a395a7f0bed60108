"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from extra_jax.files import is_remote, replace_folder, whole_file, write_file


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
