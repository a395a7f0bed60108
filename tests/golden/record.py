"""``python -m tests.golden.record [--check] [CASE ...]``: runs the cases and writes ``trajectories.json``.

With ``--check`` nothing is written: what differs from the file is named, and the exit status is 1.
"""

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.golden.cases import CASES
from tests.golden.runs import FILE, finished, signature


def main(names: list[str], check: bool) -> int:
    recorded = json.loads(FILE.read_text()) if (names or check) and FILE.exists() else {}
    differing = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        cache = Path(folder) / "cache"

        def one(name: str) -> dict:
            return finished(Path(folder) / name, cache, *CASES[name])

        chosen = names or list(CASES)
        first = one(chosen[0])  # compiles for all
        for name, result in zip(chosen, [first, *pool.map(one, chosen[1:])], strict=True):
            if result != recorded.get(name):
                differing.append(name)
            recorded[name] = result
            print(name, [step["prefixes"] for step in result["steps"]], result["parameters"][:12], flush=True)
    if check:
        print(f"{len(chosen) - len(differing)} of {len(chosen)} are what was recorded", *differing)
        return 1 if differing else 0
    recorded["signature"] = signature()
    FILE.write_text(json.dumps(recorded, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main([name for name in sys.argv[1:] if name != "--check"], "--check" in sys.argv))
