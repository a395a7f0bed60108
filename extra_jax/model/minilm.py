"""all-MiniLM-L6-v2 (or any BERT of that kind) in Flax NNX: mean of the last layer over the pieces, length 1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
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


class BertLayer(nnx.Module):
    """Self-attention and feed-forward, each followed by a residual and a layer norm."""

    def __init__(self, shape: BertShape, rngs: nnx.Rngs):
        width, self.heads = shape.hidden_size, shape.num_attention_heads
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.out_norm = nnx.LayerNorm(width, epsilon=shape.layer_norm_eps, rngs=rngs)
        self.up = nnx.Linear(width, shape.intermediate_size, rngs=rngs)
        self.down = nnx.Linear(shape.intermediate_size, width, rngs=rngs)
        self.down_norm = nnx.LayerNorm(width, epsilon=shape.layer_norm_eps, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """``x [B, T, D]``, ``mask [B, T]`` bool with 1 at real pieces."""

        def heads(y: jax.Array) -> jax.Array:
            return y.reshape(*y.shape[:2], self.heads, -1)

        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        scores = jnp.einsum("bqnh,bknh->bnqk", q, k) / jnp.sqrt(q.shape[-1])
        weights = jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, -jnp.inf), axis=-1)
        attended = jnp.einsum("bnqk,bknh->bqnh", weights, v).reshape(x.shape)
        x = self.out_norm(x + self.out(attended))
        return self.down_norm(x + self.down(jax.nn.gelu(self.up(x), approximate=False)))


class Bert(nnx.Module):
    """The encoder stack."""

    def __init__(self, shape: BertShape, rngs: nnx.Rngs):
        self.words = nnx.Embed(shape.vocab_size, shape.hidden_size, rngs=rngs)
        self.positions = nnx.Embed(shape.max_position_embeddings, shape.hidden_size, rngs=rngs)
        self.types = nnx.Embed(shape.type_vocab_size, shape.hidden_size, rngs=rngs)
        self.norm = nnx.LayerNorm(shape.hidden_size, epsilon=shape.layer_norm_eps, rngs=rngs)
        self.layers = nnx.List(BertLayer(shape, rngs) for _ in range(shape.num_hidden_layers))

    def __call__(self, pieces: jax.Array, mask: jax.Array) -> jax.Array:
        """``[B, T]`` pieces and mask -> ``[B, D]`` f32: mean hidden state of the real pieces, length 1."""
        x = self.words(pieces) + self.positions(jnp.arange(pieces.shape[1])) + self.types(jnp.zeros_like(pieces))
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, mask)
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
        graphdef, params = nnx.split(load_bert(folder, shape))
        self._params = jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))
        self._rows = _WINDOWS_PER_DEVICE * len(jax.local_devices())
        self._run = jax.jit(lambda params, pieces, mask: nnx.merge(graphdef, params)(pieces, mask))

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


_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "out_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "down_norm",
}


def load_bert(folder: Path, shape: BertShape) -> Bert:
    """The model with the weights of ``model.safetensors``, in f32.

    Raises:
        ExtraError: the file is missing or damaged, or a tensor is missing or of another shape.
    """
    file = folder / "model.safetensors"
    try:
        tensors = {name.removeprefix("bert."): value for name, value in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise ExtraError(f"{file}: {error}; fetch the model again") from error

    def fill(variable: Any, name: str, *, transpose: bool = False) -> None:
        expected = variable.shape[::-1] if transpose else variable.shape
        actual = tensors[name].shape if name in tensors else None
        if actual != expected:
            raise ExtraError(f"{file}: tensor {name}: shape {actual}, expected {expected}; fetch the model again")
        value = np.asarray(tensors[name], np.float32)
        variable[...] = jnp.asarray(value.T if transpose else value)

    model = Bert(shape, nnx.Rngs(0))
    for table, name in ((model.words, "word"), (model.positions, "position"), (model.types, "token_type")):
        fill(table.embedding, f"embeddings.{name}_embeddings.weight")
    fill(model.norm.scale, "embeddings.LayerNorm.weight")
    fill(model.norm.bias, "embeddings.LayerNorm.bias")
    for index, layer in enumerate(model.layers):
        for theirs, ours in _LAYER.items():
            module, name = getattr(layer, ours), f"encoder.layer.{index}.{theirs}"
            if isinstance(module, nnx.Linear):
                fill(module.kernel, f"{name}.weight", transpose=True)
            else:
                fill(module.scale, f"{name}.weight")
            fill(module.bias, f"{name}.bias")
    return model
