"""``python -m tests.golden.record [CASE ...]``: runs the cases and writes ``trajectories.json``."""

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.golden.cases import CASES
from tests.golden.runs import FILE, run, signature, trajectory


def main(names: list[str]) -> None:
    recorded = json.loads(FILE.read_text()) if names and FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        cache = Path(folder) / "cache"

        def one(name: str) -> dict:
            home = Path(folder) / name
            home.mkdir()
            run(home, cache, *CASES[name], "run.dir=run")
            return trajectory(home / "run")

        chosen = names or list(CASES)
        first = one(chosen[0])  # compiles for all
        for name, result in zip(chosen, [first, *pool.map(one, chosen[1:])], strict=True):
            recorded[name] = result
            print(name, [step["prefixes"] for step in result["steps"]], result["parameters"][:12], flush=True)
    recorded["signature"] = signature()
    FILE.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
