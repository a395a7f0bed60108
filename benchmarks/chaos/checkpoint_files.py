"""Each file of a run's newest checkpoint cut in half, emptied and removed, then single bits flipped: what is read then?

    PYTHONPATH=$PWD python benchmarks/chaos/checkpoint_files.py RUN [--bits 200]

RUN is the folder of a run with two checkpoints; copies of it are damaged. What is read must be, to the last bit, one of
the two; "newest" means that nothing which is read was hit.
"""

import argparse
import collections
import hashlib
import logging
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from extra_jax.checkpoint import Checkpointer
from extra_jax.errors import ExtraError


def read(checkpoints: Path, wanted: dict[str, jax.ShapeDtypeStruct]) -> str:
    """A digest of everything in the newest whole checkpoint."""
    with Checkpointer(checkpoints, read_only=True) as reader:
        _, arrays, host, explore = reader._newest(wanted, reader._numbers(), {})
    parts = [name.encode() + np.asarray(arrays[name]).tobytes() for name in sorted(arrays)]
    return hashlib.sha256(b"".join([*parts, repr(host).encode(), explore or b""])).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--bits", type=int, default=200)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    source = args.run / "checkpoints"
    older, newest = sorted((path for path in source.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(newest / "arrays").item_metadata.tree
    wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for name, x in tree.items()}
    count: collections.Counter[str] = collections.Counter()

    def copied(damage: Callable[[Path], object]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(source, f"{folder}/checkpoints")
            damage(Path(folder, "checkpoints"))
            return read(Path(folder, "checkpoints"), wanted)

    names = {copied(lambda _: None): "newest", copied(lambda folder: shutil.rmtree(folder / newest.name)): older.name}

    def tried(kind: str, damage: Callable[[Path], object]) -> None:
        try:
            seen = names.get(copied(damage), "OTHER NUMBERS")
        except ExtraError:
            seen = "named error"
        count[f"{kind}: {seen}"] += 1

    files = sorted(path.relative_to(source) for path in newest.rglob("*") if path.is_file())
    for file in files:
        content = (source / file).read_bytes()
        tried(
            "half", lambda folder, file=file, content=content: (folder / file).write_bytes(content[: len(content) // 2])
        )
        tried("empty", lambda folder, file=file: (folder / file).write_bytes(b""))
        tried("gone", lambda folder, file=file: (folder / file).unlink())
    rng, largest = random.Random(7), max(files, key=lambda file: (source / file).stat().st_size)
    for number in range(args.bits):
        file = largest if number % 2 else rng.choice([file for file in files if (source / file).stat().st_size])
        content = bytearray((source / file).read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        tried("bit", lambda folder, file=file, content=content: (folder / file).write_bytes(content))
    print("\n".join(f"{kind} {times}" for kind, times in sorted(count.items())))
    return int(any("OTHER" in kind for kind in count))


if __name__ == "__main__":
    sys.exit(main())
