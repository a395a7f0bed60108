"""all-MiniLM-L6-v2 (or any BERT of that kind): mean of the last layer over the pieces, length 1."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file

from extra_jax.config.loading import validated
from extra_jax.data.hf_tokenizer import load_fast
from extra_jax.errors import ExtraError
from extra_jax.files import read_json_object
from extra_jax.model.config import Size

_MAX_PIECES = 256  # of a window, [CLS] and [SEP] included
_WINDOWS_PER_DEVICE = 64  # encoded at once
_WIDTH_STEP = 64  # pieces; widths are multiples of it, so that few programs are compiled


class BertShape(BaseModel):
    """The fields of ``config.json`` that decide the maths."""

    model_config = ConfigDict(strict=True, frozen=True)

    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000)]
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size
    type_vocab_size: Size
    layer_norm_eps: Annotated[float, Field(gt=0, le=1)]
    hidden_act: Literal["gelu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "BertShape":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size is not a multiple of num_attention_heads")
        return self


def bert(params: Mapping[str, jax.Array], shape: BertShape, pieces: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of the last hidden states of the real pieces, of length 1: ``[B, D]`` f32.

    Args:
        params: by their names in ``model.safetensors``.
        pieces: ``[B, T]`` token ids.
        mask: ``[B, T]`` bool, 1 at real pieces.
    """

    def linear(x: jax.Array, name: str) -> jax.Array:
        return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]

    def norm(x: jax.Array, name: str) -> jax.Array:
        standard = jax.nn.standardize(x, epsilon=shape.layer_norm_eps)
        return standard * params[f"{name}.weight"] + params[f"{name}.bias"]

    def attend(x: jax.Array, name: str) -> jax.Array:
        q, k, v = (
            linear(x, f"{name}.{part}").reshape(*x.shape[:2], shape.num_attention_heads, -1)
            for part in ("query", "key", "value")
        )
        scores = jnp.einsum("bqnh,bknh->bnqk", q, k) / jnp.sqrt(q.shape[-1])
        weights = jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, -jnp.inf), axis=-1)
        return jnp.einsum("bnqk,bknh->bqnh", weights, v).reshape(x.shape)

    words, positions, types = (
        params[f"embeddings.{table}_embeddings.weight"] for table in ("word", "position", "token_type")
    )
    x = norm(words[pieces] + positions[: pieces.shape[1]] + types[0], "embeddings.LayerNorm")
    for index in range(shape.num_hidden_layers):
        layer = f"encoder.layer.{index}"
        attended = linear(attend(x, f"{layer}.attention.self"), f"{layer}.attention.output.dense")
        x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
        up = jax.nn.gelu(linear(x, f"{layer}.intermediate.dense"), approximate=False)
        x = norm(x + linear(up, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    real = mask[..., None].astype(x.dtype)
    mean = jnp.sum(x * real, axis=1) / jnp.sum(real, axis=1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


class MiniLMEncoder:
    """Encodes texts in windows, side by side on the devices of this process.

    Args:
        folder: a Hugging Face folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``.
        truncate: read only the first window of a text, as the release does, instead of the mean over all.

    Raises:
        ExtraError: the folder is not there, is not a BERT, or a tensor is missing.
    """

    def __init__(self, folder: str | Path, *, truncate: bool = False):
        folder, self.truncate, self.truncated = Path(folder), truncate, 0
        if not (folder / "config.json").exists():
            raise ExtraError(
                f"explore.encoder.path={folder}: no config.json there; give the folder of all-MiniLM-L6-v2"
            )
        shape = validated(BertShape, read_json_object(folder / "config.json"), str(folder / "config.json"))
        if shape.max_position_embeddings < _MAX_PIECES:
            raise ExtraError(
                f"explore.encoder.path={folder}: the model has {shape.max_position_embeddings} positions, windows have "
                f"{_MAX_PIECES}; give the folder of all-MiniLM-L6-v2"
            )
        self.size = shape.hidden_size
        self._tokenizer = load_fast(folder, f"explore.encoder.path={folder}: the tokenizer")
        # The folder's tokenizer.json may cut and fill to a length of its own; windows are made here.
        self._tokenizer.backend_tokenizer.no_truncation()
        self._tokenizer.backend_tokenizer.no_padding()
        self._mesh = Mesh(np.array(jax.local_devices()), ("rows",))
        self._params = jax.device_put(load_bert(folder, shape), NamedSharding(self._mesh, PartitionSpec()))
        self._rows = _WINDOWS_PER_DEVICE * len(jax.local_devices())
        self._run = jax.jit(lambda params, pieces, mask: bert(params, shape, pieces, mask))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """``[len(texts), E]`` f32; the mean of a text's windows (each of length 1), normalised."""
        windows, owner = self._windows(texts)
        vectors = self._encode_windows(windows)
        if len(windows) == len(texts):
            return vectors
        total = np.zeros((len(texts), self.size), np.float32)
        np.add.at(total, owner, vectors)
        return total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), np.float32(1e-12))

    def _windows(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Pieces of each window, its two special ones included, and the text that it belongs to."""
        pieces = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        room = _MAX_PIECES - 2
        self.truncated = 0
        windows, owner = [], []
        for index, ids in enumerate(pieces):
            starts = range(0, max(len(ids), 1), room)
            if self.truncate:
                self.truncated += len(starts) > 1
                starts = starts[:1]
            for start in starts:
                window = ids[start : start + room]
                windows.append([self._tokenizer.cls_token_id, *window, self._tokenizer.sep_token_id])
                owner.append(index)
        return windows, owner

    def _encode_windows(self, windows: list[list[int]]) -> np.ndarray:
        """``[len(windows), E]``; batches of one size, windows of similar length together."""
        vectors = np.zeros((len(windows), self.size), np.float32)
        lengths = np.array([len(window) for window in windows], np.int64)
        order = np.argsort(lengths, kind="stable")
        sharding = NamedSharding(self._mesh, PartitionSpec("rows"))
        waiting = []
        for start in range(0, len(order), self._rows):
            rows = order[start : start + self._rows]
            width = min(-(-int(lengths[rows].max()) // _WIDTH_STEP) * _WIDTH_STEP, _MAX_PIECES)
            pieces = np.zeros((self._rows, width), np.int32)
            mask = np.zeros((self._rows, width), bool)
            mask[:, 0] = True  # an empty row needs something to attend to
            for place, row in enumerate(rows):
                pieces[place, : lengths[row]] = windows[row]
                mask[place, : lengths[row]] = True
            waiting.append((rows, self._run(self._params, *jax.device_put((pieces, mask), sharding))))
        for rows, result in waiting:
            vectors[rows] = np.asarray(result)[: len(rows)]
        return vectors


def load_bert(folder: Path, shape: BertShape) -> dict[str, np.ndarray]:
    """The weights of ``model.safetensors`` by name, in f32.

    Raises:
        ExtraError: the file is missing or damaged, or a tensor is missing or of another shape.
    """
    file = folder / "model.safetensors"
    try:
        tensors = {name.removeprefix("bert."): value for name, value in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise ExtraError(f"{file}: {error}; fetch the model again") from error
    expected = _tensor_shapes(shape)
    for name, wanted in expected.items():
        if (actual := tensors[name].shape if name in tensors else None) != wanted:
            raise ExtraError(f"{file}: tensor {name}: shape {actual}, expected {wanted}; fetch the model again")
    return {name: np.asarray(tensors[name], np.float32) for name in expected}


def _tensor_shapes(shape: BertShape) -> dict[str, tuple[int, ...]]:
    width, inner = shape.hidden_size, shape.intermediate_size
    tables = {"word": shape.vocab_size, "position": shape.max_position_embeddings, "token_type": shape.type_vocab_size}
    shapes: dict[str, tuple[int, ...]] = {f"embeddings.{t}_embeddings.weight": (n, width) for t, n in tables.items()}
    matrices = {"intermediate.dense": (inner, width), "output.dense": (width, inner)} | dict.fromkeys(
        [f"attention.{part}" for part in ("self.query", "self.key", "self.value", "output.dense")], (width, width)
    )
    weights: dict[str, tuple[int, ...]] = {"embeddings.LayerNorm": (width,)}
    for index in range(shape.num_hidden_layers):
        layer = f"encoder.layer.{index}"
        weights |= {f"{layer}.{name}": matrix for name, matrix in matrices.items()}
        weights |= {f"{layer}.{place}.LayerNorm": (width,) for place in ("attention.output", "output")}
    shapes |= {f"{name}.weight": weight for name, weight in weights.items()}
    return shapes | {f"{name}.bias": weight[:1] for name, weight in weights.items()}
