"""The safetensors files of a Hugging Face folder: opened and checked at once, read and written a tensor at a time."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from extra_jax.errors import ExtraError
from extra_jax.files import is_remote, read_json_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Names of the safetensors format -> dtypes, and back.
DTYPES = {"F32": jnp.dtype("float32"), "BF16": jnp.dtype("bfloat16"), "F16": jnp.dtype("float16")}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Checkpoint:
    """The weights of a folder: ``model.safetensors``, or the shards that ``model.safetensors.index.json`` lists.

    Opening reads headers only, and fails unless every file is whole and holds what the index says.

    Raises:
        ExtraError: no weights, an index that disagrees with its files, or a damaged file.
    """

    def __init__(self, folder: str | Path):
        self.folder = local_path(folder)
        self.source, placed = _weight_files(self.folder)
        self._files: dict[str, Path] = {}
        self._handles: dict[Path, safe_open] = {}
        for file in sorted(set(placed.values())) if placed is not None else [SINGLE]:
            self._add(self.folder / file, placed)
        for name, file in (placed or {}).items():
            if name not in self._files:
                raise ExtraError(
                    f"{self.source}: tensor {name!r} is not in {file}, where the index places it; fetch both again"
                )

    def _add(self, path: Path, placed: Mapping[str, str] | None) -> None:
        handle = self._handles[path] = _open(path)
        for name in handle.keys():  # noqa: SIM118  (a handle, not a dict)
            if placed is not None and (name not in placed or self.folder / placed[name] != path):
                elsewhere = f"places it in {placed[name]}" if name in placed else "does not list it"
                raise ExtraError(f"{path}: holds tensor {name!r}, but {self.source.name} {elsewhere}; fetch both again")
            self._files[name] = path

    @property
    def names(self) -> set[str]:
        return set(self._files)

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._files[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype_name(self, name: str) -> str:
        """Dtype in the spelling of the format, such as ``BF16``."""
        return str(self._slice(name).get_dtype())

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Reads part of a tensor, in the dtype of the file; the array owns its memory."""
        return self._slice(name)[index]

    def _slice(self, name: str):
        return self._handles[self._files[name]].get_slice(name)


def local_path(folder: str | Path) -> Path:
    """``folder`` as a path; Hugging Face folders are read and written on local disks only."""
    if is_remote(folder):
        raise ExtraError(
            f"{folder}: Hugging Face folders are local here; copy it with the tool of the store, then retry"
        )
    return Path(folder)


def _weight_files(folder: Path) -> tuple[Path, dict[str, str] | None]:
    """The file that lists the weights, and its tensor -> file map; ``None`` when it is the weights itself."""
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() and index.exists():
        raise ExtraError(f"{folder}: holds both {SINGLE} and {INDEX}; remove the one that is out of date")
    if single.exists():
        return single, None
    if not index.exists():
        raise ExtraError(f"{folder}: neither {SINGLE} nor {INDEX} is there; save the model as safetensors first")
    placed = read_json_object(index).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(file, str) for file in placed.values()):
        raise ExtraError(f"{index}: not an index with a weight_map of tensor -> file; fetch the file again")
    placed = {name: os.path.normpath(file) for name, file in placed.items()}
    for name, file in placed.items():
        if os.path.isabs(file) or file.startswith(".."):
            raise ExtraError(
                f"{index}: tensor {name!r} is placed in {file!r}, outside of the folder; correct the index"
            )
        if not os.path.exists(folder / file):
            raise ExtraError(f"{index}: tensor {name!r} is placed in {file}, which is missing; fetch that file")
    return index, placed


def _open(path: Path) -> safe_open:
    if not path.is_file():
        raise ExtraError(f"{path}: not an ordinary file; fetch the model again")
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        detail = (_first_cut(path) if "not fully covered" in str(error) else None) or error
        raise ExtraError(f"{path}: not a whole safetensors file: {detail}; fetch the file again") from error


def _first_cut(path: Path) -> str | None:
    """Names the first tensor whose bytes are not all in a file whose header the library could read."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size))
    size = path.stat().st_size - 8 - header_size
    ends = sorted((entry["data_offsets"][1], name) for name, entry in header.items() if name != "__metadata__")
    return next(
        (f"tensor {name!r} is cut off ({end} bytes expected, {size} there)" for end, name in ends if end > size), None
    )


def plan_shards(sizes: Mapping[str, int], max_bytes: float) -> dict[str, list[str]]:
    """File name -> tensors in it, filled in order up to ``max_bytes`` of data; a larger tensor gets its own file."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": names for i, names in enumerate(shards, start=1)}


def write_tensors(
    path: Path, shapes: Mapping[str, Sequence[int]], dtype: jnp.dtype, fetch: Callable[[str], np.ndarray]
) -> None:
    """Writes one safetensors file, asking for one tensor at a time.

    The library writes only what is in memory as a whole; the bytes here are those that it would write.

    Args:
        shapes: shape of each tensor.
        fetch: gives a tensor by name, C-contiguous, of that shape and dtype.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start, names = 0, sorted(shapes)
    for name in names:
        end = start + int(np.prod(shapes[name])) * dtype.itemsize
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shapes[name]), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = fetch(name)
            assert tensor.shape == tuple(shapes[name]), (name, tensor.shape)
            assert tensor.dtype == dtype, (name, tensor.dtype)
            file.write(tensor.reshape(-1).view(np.uint8).data)
            del tensor  # before the next is fetched


def write_json(path: Path, tree: Mapping[str, object]) -> None:
    """Writes a JSON file in the layout of ``transformers``."""
    path.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")
