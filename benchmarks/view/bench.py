"""How soon the page of a large run is there, and what it costs: ``python -m benchmarks.view.bench [--megabytes 100]``.

Writes a run of that size into a temporary folder, starts ``extra-jax view`` and asks as a browser does. Needs no jax.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

_TEXT = "We look for the value of x. 3 * 7 = 21, and 21 + 4 = 25, so x is 25 or so; let us verify that. "


def write_run(folder: Path, megabytes: float, steps: int, group: int, tokens: int) -> int:
    """A run of ``steps`` files; returns the bytes of its records."""
    draw = random.Random(0)
    metrics = [
        {"step": s, "time": time.time(), "reward": s / steps} | {f"exploration/m{i}": draw.random() for i in range(160)}
        for s in range(1, steps + 1)
    ]
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    (folder / "rollouts").mkdir()
    ids = [draw.randrange(150_000) for _ in range(tokens)]
    logprobs = [round(-draw.random(), 5) for _ in range(tokens)]
    numbers = {"prompt_ids": [1, 2, 3], "completion_ids": ids, "logprobs": logprobs, "entropies": logprobs}
    written, step = 0, 0
    while written < megabytes * 1e6:
        step += 1
        rows, rollout = [], 0
        while sum(map(len, rows)) < megabytes * 1e6 / steps:
            for _ in range(group):
                verdict = draw.choice(["correct", "wrong"])
                row = {
                    "step": step, "rollout_id": rollout, "uid": f"problem/{(step * 7 + rollout // group) % 997}",
                    "source": "bench", "prompt": "What is x?", "completion": _TEXT * (tokens // 25), "answer": "25",
                    "verdict": verdict, "grader": "math/2", "grader_detail": "", "reward": float(verdict == "correct"),
                    "reward_parts": {}, "stop_reason": "stop_token", "advantage": 0.5, **numbers,
                    "bonus": None, "parent": None,
                }  # fmt: skip
                rows.append(json.dumps(row) + "\n")
                rollout += 1
        text = "".join(rows)
        (folder / "rollouts" / f"step_{step:06d}.jsonl").write_text(text)
        written += len(text)
    return written


def ask(port: int, path: str) -> tuple[float, bytes]:
    """Seconds and body of an answer."""
    start = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        body = answer.read()
    return time.perf_counter() - start, body


def status(pid: int) -> tuple[float, float]:
    """Peak resident megabytes and CPU seconds of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return peak / 1024, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--port", type=int, default=6797)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        size = write_run(run, args.megabytes, args.steps, 8, args.tokens)
        command = [sys.executable, "-m", "extra_jax.cli", "view", str(run), "--port", str(args.port)]
        start = time.perf_counter()
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            server.stdout.readline()
            print(f"records of {size / 1e6:.0f} MB in {args.steps} steps")
            print(f"address printed      {time.perf_counter() - start:6.2f} s   {status(server.pid)[1]:.2f} CPU s")
            for path in ("/", "/uplot.js", "/app.js", "/api/runs", "/api/state", "/api/curves?run=0"):
                ask(args.port, path)
            print(f"curves answered      {time.perf_counter() - start:6.2f} s   {status(server.pid)[1]:.2f} CPU s")
            seconds, body = ask(args.port, "/api/groups?run=0&source=training")
            while not json.loads(body)["groups"]:
                seconds, body = ask(args.port, "/api/groups?run=0&source=training")
            print(f"newest groups listed {time.perf_counter() - start:6.2f} s   {status(server.pid)[1]:.2f} CPU s")
            while json.loads(ask(args.port, "/api/state")[1])[0]["sources"]["training"]["pending"]:
                time.sleep(0.05)
            print(f"all indexed          {time.perf_counter() - start:6.2f} s   {status(server.pid)[1]:.2f} CPU s")
            for path in ("groups?run=0&source=training&outcome=mixed", "group?run=0&source=training&ref=50:8"):
                seconds, body = ask(args.port, "/api/" + path)
                print(f"{path.partition('?')[0]:20s} {seconds:6.3f} s   {len(body) / 1e3:.0f} kB")
            print(f"peak memory {status(server.pid)[0]:.0f} MB")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
