"""Every verb with every file that it reads, damaged in every way: a named error; no traceback, hang or silence.

    PYTHONPATH=$PWD python benchmarks/chaos/bad_input.py [ONLY_REGEX] [--out results.jsonl] [--summary bad_input.json]

Every case runs ``extra_jax.cli.main`` in a process of its own, forked from one that has imported everything, for at
most 60 seconds. Verdicts: ``ok`` (named error, or accepted where the damage does no harm), ``traceback``, ``bug``
(status 70), ``hang``, ``silent`` (accepted), ``killed``. Called again with the same ``--out`` it goes on with the cases
that are not there yet.
"""

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ASSET = ROOT / "extra_jax/assets/tiny_base"
SECONDS = 60.0

Damage = Callable[[Path], None]


def _bytes(change: Callable[[bytes], bytes]) -> Damage:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(change(content))

    return damage


def _replaced(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def _noise(content: bytes) -> bytes:
    return random.Random(len(content)).randbytes(len(content))


DAMAGES: dict[str, Damage] = {
    "empty": _bytes(lambda content: b""),
    "cut": _bytes(lambda content: content[: len(content) * 2 // 3]),
    "noise": _bytes(_noise),
    "zeros": _bytes(lambda content: bytes(len(content))),
    "utf16": _bytes(lambda content: content.decode("latin-1").encode("utf-16")),
    "latin1": _bytes(lambda content: content[:40] + b"\xe9\xff" + content[40:]),
    "list": _bytes(lambda content: b"[1, [2], null]\n"),
    "number": _bytes(lambda content: b"5\n"),
    "null": _bytes(lambda content: b"null\n"),
    "text": _bytes(lambda content: b'"text"\n'),
    "object": _bytes(lambda content: b'{"a": {"b": []}}\n'),
    "deep": _bytes(lambda content: b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
    "digits": _bytes(lambda content: b'{"a": ' + b"9" * 5000 + b"}\n"),
    "surrogate": _bytes(lambda content: b'{"a\\ud800": "\\udfff"}\n'),
    "folder": _replaced(lambda path: path.mkdir()),
    "pipe": _replaced(os.mkfifo),
    "loop": _replaced(lambda path: path.symlink_to(path)),
    "missing": _replaced(lambda path: None),
    "endless": _replaced(lambda path: path.symlink_to("/dev/zero")),
}


@dataclass(frozen=True)
class Read:
    """A verb that reads a file.

    Attributes:
        name: of the case.
        file: which file of ``prepare`` is damaged.
        argv: with ``{W}`` for the folder.
        harmless: damages that the file may have.
    """

    name: str
    file: str
    argv: tuple[str, ...]
    harmless: tuple[str, ...] = ()


_DRY = ("train", "{W}/c.yaml", "--dry-run")
_MODEL = ("model={{path: '{W}/model', dtype: float32, remat: none}}", "tokenizer.path={W}/model", "run.dir={W}/new")
READS = (
    Read("config", "c.yaml", _DRY),
    Read("data of train", "d.jsonl", (*_DRY, "data={{source: '{W}/d.jsonl'}}")),
    Read("parquet of train", "d.parquet", (*_DRY, "data={{source: '{W}/d.parquet'}}")),
    Read("lint", "d.jsonl", ("data", "lint", "{W}/d.jsonl")),
    Read("lint parquet", "d.parquet", ("data", "lint", "{W}/d.parquet")),
    Read("lint tokenizer", "model/tokenizer.json",
         ("data", "lint", "{W}/d.jsonl", "--tokenizer", "{W}/model", "--max-prompt-length", "9")),
    Read("contamination", "d.jsonl", ("data", "contamination", "{W}/d.jsonl", "{W}/e.jsonl")),
    Read("contamination of", "e.jsonl", ("data", "contamination", "{W}/d.jsonl", "{W}/e.jsonl", "--out", "{W}/o")),
    Read("fetch", "aime24.jsonl", ("data", "fetch", "aime24", "--source", "{W}", "--out", "{W}/fetched")),
    Read("prompts", "p.jsonl", ("sample", "{W}/c.yaml", "--dry-run", "--file", "{W}/p.jsonl"), ("cut",)),
    Read("prompts as text", "p.txt", ("sample", "{W}/c.yaml", "--dry-run", "--file", "{W}/p.txt"),
         ("list", "number", "null", "text", "object", "deep", "digits", "surrogate", "cut")),
    Read("model of train", "model/config.json", (*_DRY, *_MODEL)),
    Read("model of plan", "model/config.json", ("plan", "{W}/c.yaml", "--topology", "v5e:2x2", "--dry-run", *_MODEL)),
    Read("import config", "model/config.json", ("import-hf", "{W}/c.yaml", *_MODEL)),
    Read("import weights", "model/model.safetensors", ("import-hf", "{W}/c.yaml", *_MODEL)),
    Read("sample tokenizer_config", "model/tokenizer_config.json", ("sample", "{W}/c.yaml", *_MODEL, "--prompt", "3")),
    Read("sample generation_config", "model/generation_config.json", ("sample", "{W}/c.yaml", *_MODEL, "--prompt", "3"),
         ("missing", "object")),
    Read("evaluation", "a/evals/b/step_000001.json", ("compare", "{W}/a", "{W}/z")),
    Read("config of a run", "a/config.yaml", ("compare", "{W}/a", "{W}/z")),
    Read("replay", "a/replay/step_000001.npz", ("replay", "{W}/a/replay/step_000001.npz")),
    Read("rubric", "r.toml", ("judge", "{W}/store", "rubric={W}/r.toml", "endpoint=http://127.0.0.1:9/v1", "model=m")),
    Read("rollouts of judge", "store/rollouts/x.parquet", ("judge", "{W}/store", "endpoint=http://127.0.0.1:9/v1",
         "model=m", "retries=0")),
    Read("rollouts of calibrate", "store/rollouts/x.parquet", ("calibrate", "{W}/store")),
    Read("exported run", "a/config.yaml", ("export-hf", "{W}/c.yaml", "run.dir={W}/a", "--out", "{W}/exported")),
    Read("out of export", "o", ("export-hf", "{W}/c.yaml", "run.dir={W}/a", "--out", "{W}/o/x")),
    Read("run.dir", "o", ("train", "{W}/c.yaml", "run.dir={W}/o/x")),
)  # fmt: skip
FREE = {"out of export": ("folder", "missing"), "run.dir": tuple(DAMAGES)}  # folders, and not files that are read


def prepare(folder: Path) -> None:
    """Files in order, one of each kind."""
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("a/evals/b", "a/replay", "z/evals/b", "store/rollouts"):
        (folder / name).mkdir(parents=True)
    config = (
        f"model: {{preset: tiny, dtype: float32}}\ndata: {{source: countdown, limit: 8}}\nrun: {{dir: {folder}/r}}\n"
    )
    config += "rollout: {max_prompt_length: 64, max_completion_length: 8}\n"
    for name in ("c.yaml", "a/config.yaml", "z/config.yaml"):
        (folder / name).write_text(config)
    rows = [{"id": f"r{i}", "problem": f"countdown {2 * i}: {i} {i}", "answer": str(2 * i)} for i in range(30)]
    for name in ("d.jsonl", "e.jsonl", "aime24.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "d.parquet")
    pq.write_table(pa.Table.from_pylist(rows), folder / "store/rollouts/x.parquet")
    (folder / "p.jsonl").write_text('{"prompt": "countdown 3 5 8: 24"}\n' * 3)
    (folder / "p.txt").write_text("countdown 3 5 8: 24\n" * 3)
    shutil.copytree(ASSET, folder / "model")
    numbers = {"step": 1, "benchmark": "b", "grader": "g", "num_generations": 2, "problems": "h", "seed": 0,
               "sampling": {}, "uids": ["a", "b"], "correct": [[1, 0], [0, 0]], "summary": {}}  # fmt: skip
    for name in ("a", "z"):
        (folder / name / "evals/b/step_000001.json").write_text(json.dumps(numbers))
    (folder / "a/replay/step_000001.npz").write_bytes(b"PK\x03\x04" + bytes(400))
    shutil.copy(ROOT / "extra_jax/judge/rubrics/outcome_strict_v1.toml", folder / "r.toml")
    (folder / "o").write_text("a file\n")


def cases() -> Iterator[tuple[str, Read, str]]:
    """Name, verb and damage of each case."""
    for read in READS:
        for damage in DAMAGES:
            if damage not in FREE.get(read.name, ()):
                yield f"{read.name}: {damage}", read, damage
    yield from ((f"{read.name}: folder", read, "whole") for read in READS if read.name in FREE)


def run(read: Read, damage: str, seconds: float = SECONDS) -> tuple[str, str]:
    """Verdict, and the last line that was said."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        if damage != "whole":
            (folder / read.file).parent.mkdir(parents=True, exist_ok=True)
            DAMAGES[damage](folder / read.file)
        log = folder / "said"
        status = _forked([text.format(W=name) for text in read.argv], log, seconds)
        said = log.read_text(errors="replace")
    last = (said.strip().splitlines() or [""])[-1].replace(name, "W")[:300]
    if status is None:
        return "hang", last
    if "Traceback (most recent call last)" in said:
        return "traceback", last
    if status == 70:
        return "bug", last
    if status < 0:
        return "killed", f"signal {-status}: {last}"
    return ("silent" if status == 0 and damage not in read.harmless else "ok"), last


def _forked(argv: list[str], log: Path, seconds: float) -> int | None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        status = 1
        try:
            from extra_jax.cli import main

            status = main(argv)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="?", default="", help="a regular expression")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--summary", type=Path)
    args = parser.parse_args()
    import grain  # noqa: F401
    import jax  # noqa: F401  # imported once, before the forks; no device is opened
    import orbax.checkpoint  # noqa: F401
    import transformers  # noqa: F401

    import extra_jax.assemble  # noqa: F401

    rows = list(map(json.loads, args.out.read_text().splitlines())) if args.out and args.out.exists() else []
    done = {row["case"] for row in rows}
    for name, read, damage in cases():
        if name not in done and re.search(args.only, name):
            verdict, said = run(read, damage)
            rows.append({"case": name, "verdict": verdict, "said": said})
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
            if verdict != "ok":
                print(f"{verdict:<9} {name}: {said}", flush=True)
    count = Counter(row["verdict"] for row in rows)
    if args.summary:
        not_ok = [row for row in rows if row["verdict"] != "ok"]
        args.summary.write_text(json.dumps({"cases": len(rows), "verdicts": count, "not ok": not_ok}, indent=1) + "\n")
    print(f"{len(rows)} cases: {dict(count)}")
    return int(set(count) != {"ok"})


if __name__ == "__main__":
    sys.exit(main())
