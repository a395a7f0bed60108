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


def differing_parts(before: dict | None, after: dict) -> list[str]:
    """``["logprobs of steps 0 1", "parameters"]``: what of a case is not what it was."""
    if before is None or len(before["steps"]) != len(after["steps"]):
        return ["the number of steps"]
    parts = []
    for name in after["steps"][0]:
        pairs = zip(before["steps"], after["steps"], strict=True)
        if steps := [f"{step}" for step, (old, new) in enumerate(pairs) if old.get(name) != new[name]]:
            parts.append(f"{name} of steps {' '.join(steps)}")
    return parts + [name for name in after if name != "steps" and before.get(name) != after[name]]


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
            if differences := differing_parts(recorded.get(name), result):
                differing.append(f"\n{name}: {', '.join(differences)}")
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
