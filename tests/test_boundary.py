"""Whatever a verb raises: a named error with status 2, or a bug with status 70 and a file; never a traceback."""

import errno
import os
import signal
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

from extra_jax import cli
from extra_jax.cli.boundary import PlainOutput, check_writable, foreseen
from extra_jax.errors import ExtraError
from extra_jax.interrupts import quit_at_once

SECRET = "correct-horse-battery"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": {"preset": "tiny"}, "run": {"dir": str(tmp_path / "run")}}))
    return str(path)


@pytest.fixture
def raising(monkeypatch):
    """Makes the work of ``train`` raise this."""

    def set_error(error, printed=""):
        def train(config):
            print(printed)
            raise error

        fake = types.ModuleType("extra_jax.assemble")
        fake.train = train
        monkeypatch.setitem(sys.modules, "extra_jax.assemble", fake)

    return set_error


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_a_bug_of_ours_leaves_its_details_in_a_file(file, raising, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    raising(KeyError(f"ours \x1b[31m{SECRET}"))
    (tmp_path / "run").mkdir()
    assert cli.main(["train", file, "tokenizer.chat_template_kwargs={password: abcdefgh}"]) == 70
    said = capsys.readouterr().err
    assert said.startswith("extra-jax train: this is a bug in extra_jax (KeyError: ")
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    (details,) = (tmp_path / "run").glob("extra_jax_bug_*.txt")
    assert said.strip().endswith(f"the details are in {details}")
    text = details.read_text()
    assert "Traceback (most recent call last)" in text
    assert "extra-jax train" in text
    assert "python: 3." in text
    assert "pydantic 2" in text
    for hidden in (SECRET, "abcdefgh", "\x1b"):
        assert hidden not in said + text
    assert stat.S_IMODE(details.stat().st_mode) == 0o600


@pytest.mark.parametrize("argv", [[], ["run.dir=/proc/nothing"]])
def test_without_a_run_the_details_are_a_temporary_file(file, raising, capsys, temporary, argv, monkeypatch):
    monkeypatch.setattr("extra_jax.cli.check_writable", lambda path, what: None)
    raising(ZeroDivisionError("x"))
    assert cli.main(["train", file, *argv]) == 70
    (details,) = temporary.glob("extra_jax_bug_*.txt")
    assert str(details) in capsys.readouterr().err


def test_a_bug_on_a_full_disk_is_still_told(file, raising, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("extra_jax.cli.check_writable", lambda path, what: None)
    monkeypatch.setattr("tempfile.mkstemp", full)
    raising(ZeroDivisionError("x"))
    assert cli.main(["train", file]) == 70
    assert "ZeroDivisionError: x" in capsys.readouterr().err


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ExtraError("model.path=x: no folder"), "model.path=x: no folder"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. Make room"),
        (OSError(errno.EROFS, "Read-only file system", "RUN/x"), "RUN/x: Read-only file system. Choose a place"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", b"x"), "x: Not a directory"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), "x: Is a directory"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300), "n: File name too long"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "x"), "x: Too many levels"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "x: No such file"),
        (OSError(errno.EMFILE, "Too many open files", "x"), "ulimit -n"),
        (caused(RuntimeError("saving"), OSError(errno.EDQUOT, "Disk quota exceeded")), "Disk quota exceeded. Make"),
        (ValueError("UNKNOWN: in OCDBT database: write to file 6: No space left on device [x.cc]"), "Make room"),
        (MemoryError(), "not enough memory"),
        (MemoryError("Unable to allocate 373. GiB for an array"), "Unable to allocate 373. GiB"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nmore"), "rollout.slots"),
        (ModuleNotFoundError("No module named 'wandb.sdk'", name="wandb.sdk"), "needs the package `wandb`"),
    ],
)
def test_what_can_be_foreseen_is_named(file, raising, capsys, error, message, temporary):
    raising(error)
    assert cli.main(["train", file]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a"),
        RecursionError("maximum"),
        OSError("odd"),
        ModuleNotFoundError("x", name="extra_jax.gone"),
        TypeError(),
    ],
)
def test_what_cannot_be_foreseen_is_a_bug(file, raising, error):
    assert foreseen(error) is None
    raising(error)
    assert cli.main(["train", file]) == 70


def test_an_interrupt_is_no_traceback_and_the_next_one_ends_at_once(file, raising, capsys):
    raising(KeyboardInterrupt())
    before = signal.getsignal(signal.SIGINT)
    try:
        assert cli.main(["train", file]) == 130
        assert signal.getsignal(signal.SIGINT) is quit_at_once
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "extra-jax train: interrupted\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_is_printed_moves_no_cursor(encoding, tmp_path):
    with open(tmp_path / "out", "w", encoding=encoding) as stream:
        print("\x1b]0;title\x07 \udcff é [red]", file=PlainOutput(stream))
        assert not PlainOutput(stream).isatty()
    expected = "\\x1b]0;title\\x07 \\udcff é [red]\n"
    assert (tmp_path / "out").read_bytes() == expected.encode(encoding, "backslashreplace")


def test_a_verb_prints_and_fails_in_plain_characters(file, raising, capsys):
    raising(ExtraError("row \x1b[2J of \u202e"), printed="text \x1b[31m")
    assert cli.main(["train", file]) == 2
    captured = capsys.readouterr()
    assert captured.out == "text \\x1b[31m\n"
    assert captured.err == "extra-jax train: row \\x1b[2J of \\u202e\n"


def unusable_folders(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "a_file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere/x")
    return {
        "a file": str(tmp_path / "a_file"),
        "below a file": str(tmp_path / "a_file/x/y"),
        "a loop": str(tmp_path / "loop"),
        "below a loop": str(tmp_path / "loop/x"),
        "a dangling link": str(tmp_path / "dangling"),
        "under /proc": "/proc/nothing/x",
        "a long name": str(tmp_path / ("n" * 300)),
        "below a long name": str(tmp_path / ("n" * 300) / "x"),
        "a long path": str(tmp_path / "/".join(["d" * 200] * 30)),
    }


FOLDERS = ("a file", "below a file", "a loop", "below a loop", "a dangling link", "under /proc", "a long name",
           "below a long name", "a long path")  # fmt: skip


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize(
    "verb",
    [["train"], ["sft"], ["eval"], ["sample", "--prompt", "x"], ["rollout"], ["exprl"], ["import-hf"],
     ["export-hf", "--out", "FOLDER"], ["data", "fetch", "aime24", "--out", "FOLDER"]],
    ids=lambda verb: verb[0],
)  # fmt: skip
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path, file, capsys, verb, kind):
    folder = unusable_folders(tmp_path)[kind]
    before = sorted(os.listdir(tmp_path))
    arguments = [folder if text == "FOLDER" else text for text in verb]
    if verb[0] not in ("data", "export-hf"):
        arguments[1:1] = [file, f"run.dir={folder}"]
    elif verb[0] == "export-hf":
        arguments[1:1] = [file]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert folder[:100] in said
    assert "cannot be written" in said
    assert sorted(os.listdir(tmp_path)) == before


def test_a_folder_that_can_be_made_is_fine(tmp_path):
    check_writable(str(tmp_path / "a/b/c"), "run.dir")
    check_writable(str(tmp_path), "run.dir")
    check_writable("gs://bucket/x", "run.dir")
    assert not (tmp_path / "a").exists()


def test_a_second_interrupt_prints_no_traceback(tmp_path):
    """A process that is told twice to stop, the second time while it winds down."""
    program = (
        "import sys, types, time, os, signal, atexit\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
        "from extra_jax import cli\n"
        "fake = types.ModuleType('extra_jax.assemble')\n"
        "def train(config):\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
        "fake.train = train; sys.modules['extra_jax.assemble'] = fake\n"
        "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(9)))\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    config = tmp_path / "c.yaml"
    config.write_text(f"model: {{preset: tiny}}\nrun: {{dir: {tmp_path / 'run'}}}\n")
    done = subprocess.run(
        [sys.executable, "-c", program, "train", str(config)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "extra-jax train: interrupted\n\nextra-jax: interrupted\n"
