"""Qwen3 weights from and to Hugging Face folders, without torch and without ever holding a model on the host.

Import reads each device's slice of a tensor from the file, puts it on the device and rearranges it there. Export
gathers one tensor, writes it and forgets it. Host memory is bounded by two tensors either way, and stacks of
layers exist on devices only.
"""

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from extra_jax.errors import ExtraError
from extra_jax.files import read_json_object, replace_folder
from extra_jax.model.config import Qwen3Config
from extra_jax.model.hf_files import (
    DTYPES,
    INDEX,
    SINGLE,
    Checkpoint,
    local_path,
    plan_shards,
    write_json,
    write_tensors,
)
from extra_jax.model.hf_names import EMBEDDING, HEAD, HFTensor, Layout, ParamPath, hf_tensors
from extra_jax.model.qwen3 import Qwen3
from extra_jax.parallel.processes import agree, is_main, on_main

_COMPARED_BYTES = 1 << 24  # read at once when a duplicated head is compared


class ExportedTokenizer(Protocol):
    """What an export needs of a tokenizer."""

    stop_ids: Any

    @property
    def pad_id(self) -> int | None:
        """Fills the shape of a batch."""

    def save(self, directory: Path) -> None:
        """Writes the tokenizer files and the chat template."""


# --- import ---------------------------------------------------------------------------------------------------------


def load_params(folder: str | Path, config: Qwen3Config, shardings: Any, dtype: str | jnp.dtype) -> nnx.State:
    """Streams the safetensors files of a Hugging Face folder into sharded parameters.

    Every process calls it and reads the slices of its own devices. A tied checkpoint may repeat the embedding as
    ``lm_head.weight`` (the published 0.6B and 1.7B do) if the bytes agree; the repetition is dropped.

    Args:
        folder: local folder with ``model.safetensors`` or its shards and their index.
        config: the shape that the files must have.
        shardings: ``NamedSharding`` of each parameter, as ``param_shardings`` gives them.
        dtype: of the parameters; the files may be F32, BF16 or F16, tensor by tensor.

    Raises:
        ExtraError: before anything is loaded: a missing, extra or misshapen tensor, a dtype that is not
            supported, a damaged file or an index that disagrees with its files. After loading: a tensor with NaN.
    """
    checkpoint, tensors = Checkpoint(folder), hf_tensors(config)
    abstract, treedef = _flatten(abstract_params(config, dtype))
    layouts = dict(zip(abstract, jax.tree.leaves(shardings), strict=True))
    _validate(checkpoint, tensors, abstract, config)
    stacks = {path: leaf for path, leaf in abstract.items() if path[0] == "layers"}
    params = dict(zip(stacks, _allocate(list(stacks.values()), [layouts[path] for path in stacks]), strict=True))
    previous, nan = None, {}
    for tensor in tensors:
        sharding, leaf = layouts[tensor.path], abstract[tensor.path]
        piece = _read(checkpoint, tensor, leaf.shape, sharding)
        jax.block_until_ready(previous)  # at most this tensor and the one before it are in host memory
        if tensor.layer is None:
            previous, nan[tensor.name] = _place(piece, tensor.layout, leaf.shape, leaf.dtype, sharding)
        else:
            previous, nan[tensor.name] = _insert(params[tensor.path], piece, tensor.layer, tensor.layout, sharding)
        params[tensor.path] = previous
    if damaged := [name for name, has_nan in jax.device_get(nan).items() if has_nan]:
        raise ExtraError(
            f"{checkpoint.file(damaged[0])}: {len(damaged)} of {len(nan)} tensors hold NaN: {_some(damaged)}; the "
            "file is damaged or its training diverged: fetch it again, or take an earlier checkpoint"
        )
    return jax.tree.unflatten(treedef, [params[path] for path in abstract])


def abstract_params(config: Qwen3Config, dtype: str | jnp.dtype) -> nnx.State:
    """Shapes and dtypes of the parameters, with their axis names; nothing is computed."""
    return nnx.state(nnx.eval_shape(lambda: Qwen3(config, rngs=nnx.Rngs(0), param_dtype=dtype)))


def _flatten(params: nnx.State) -> tuple[dict[ParamPath, Any], Any]:
    """Parameters by path, and the structure that puts them back."""
    leaves, treedef = jax.tree.flatten_with_path(params)
    return {tuple(key.key for key in path if hasattr(key, "key")): leaf for path, leaf in leaves}, treedef


def _layer_shape(tensor: HFTensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if tensor.layer is None else shape[1:]


def _hf_spec(tensor: HFTensor, sharding: NamedSharding) -> PartitionSpec:
    """Partition of a tensor in the arrangement of the file, from that of our parameter."""
    spec = sharding.spec if tensor.layer is None else PartitionSpec(*sharding.spec[1:])
    return tensor.layout.hf_spec(spec)


def _validate(
    checkpoint: Checkpoint, tensors: list[HFTensor], abstract: Mapping[ParamPath, Any], config: Qwen3Config
) -> None:
    expected = {t.name: t.layout.hf_shape(_layer_shape(t, abstract[t.path].shape)) for t in tensors}
    # The rotary frequencies that old converters saved follow from config.json.
    extra = {name for name in checkpoint.names - expected.keys() if not name.endswith(".rotary_emb.inv_freq")}
    if config.tie_word_embeddings and HEAD in extra:
        extra.remove(HEAD)
        _demand_duplicate(checkpoint)
    if missing := [name for name in expected if name not in checkpoint.names]:
        raise ExtraError(
            f"{checkpoint.source}: {len(missing)} tensors of this config.json are missing: {_some(missing)}; "
            "config.json and the weights are not of one model, or the download is not complete"
        )
    if extra:
        name = min(extra)
        raise ExtraError(
            f"{checkpoint.file(name)}: {len(extra)} tensors that this config.json has no place for: "
            f"{_some(sorted(extra))}; config.json and the weights are not of one model"
        )
    for name, shape in expected.items():
        if checkpoint.shape(name) != shape:
            raise ExtraError(
                f"{checkpoint.file(name)}: tensor {name!r} has shape {list(checkpoint.shape(name))}, but "
                f"config.json asks for {list(shape)}; correct config.json or the file"
            )
        if checkpoint.dtype_name(name) not in DTYPES:
            raise ExtraError(
                f"{checkpoint.file(name)}: tensor {name!r} has dtype {checkpoint.dtype_name(name)}; convert it to one "
                f"of {', '.join(DTYPES)} (quantized checkpoints are not supported)"
            )


def _demand_duplicate(checkpoint: Checkpoint) -> None:
    """A head beside a tied embedding must be the embedding, byte for byte: else one of the two would be lost."""
    if EMBEDDING not in checkpoint.names:
        return  # reported as missing
    same = checkpoint.shape(HEAD) == checkpoint.shape(EMBEDDING)
    same = same and checkpoint.dtype_name(HEAD) == checkpoint.dtype_name(EMBEDDING)
    if same and len(checkpoint.shape(HEAD)) == 2:
        rows, width = checkpoint.shape(HEAD)
        step = max(1, _COMPARED_BYTES // (4 * width))
        blocks = ((slice(i, min(i + step, rows)), slice(0, width)) for i in range(0, rows, step))
        same = all(
            np.array_equal(checkpoint.read(HEAD, b).view(np.uint8), checkpoint.read(EMBEDDING, b).view(np.uint8))
            for b in blocks
        )
    if not same:
        raise ExtraError(
            f"{checkpoint.file(HEAD)}: tensor {HEAD!r} differs from {EMBEDDING!r}, but config.json says "
            "tie_word_embeddings: true; set it to false to keep both, or remove the head"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _read(checkpoint: Checkpoint, tensor: HFTensor, shape: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    """One tensor in the arrangement and dtype of the file, each device holding what it will need of it."""
    hf_shape = tensor.layout.hf_shape(_layer_shape(tensor, shape))
    hf_sharding = NamedSharding(sharding.mesh, _hf_spec(tensor, sharding))
    pieces: dict[tuple, np.ndarray] = {}  # devices that hold the same slice share one reading

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # a device always holds some part
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, hf_shape, strict=True))
        if bounds not in pieces:
            pieces[bounds] = checkpoint.read(tensor.name, tuple(slice(*b) for b in bounds))
        return pieces[bounds]

    return jax.make_array_from_callback(hf_shape, hf_sharding, read)


def _allocate(leaves: list[jax.ShapeDtypeStruct], shardings: list[Sharding]) -> list[jax.Array]:
    return jax.jit(lambda: [jnp.zeros(leaf.shape, leaf.dtype) for leaf in leaves], out_shardings=shardings)()


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _place(
    piece: jax.Array, layout: Layout, shape: tuple[int, ...], dtype: jnp.dtype, sharding: NamedSharding
) -> tuple[jax.Array, jax.Array]:
    """A parameter, and whether it holds NaN."""
    value = layout.from_hf(piece, shape).astype(dtype)
    return jax.lax.with_sharding_constraint(value, sharding), jnp.isnan(piece).any()


@functools.partial(jax.jit, static_argnums=(3, 4), donate_argnums=0)
def _insert(
    stack: jax.Array, piece: jax.Array, layer: int, layout: Layout, sharding: NamedSharding
) -> tuple[jax.Array, jax.Array]:
    """Writes a layer into its stack in place; the stack, and whether the layer holds NaN."""
    value = layout.from_hf(piece, stack.shape[1:]).astype(stack.dtype)
    stack = jax.lax.dynamic_update_index_in_dim(stack, value, layer, 0)
    return jax.lax.with_sharding_constraint(stack, sharding), jnp.isnan(piece).any()


# --- export ---------------------------------------------------------------------------------------------------------


def save_params(
    folder: str | Path,
    params: nnx.State,
    config: Qwen3Config,
    *,
    tokenizer: ExportedTokenizer | None = None,
    generation_config: Mapping[str, Any] | None = None,
    dtype: str = "bfloat16",
    max_shard_bytes: float = 5e9,
    overwrite: bool = False,
) -> None:
    """Writes a Hugging Face folder that ``transformers`` loads: weights, configuration, tokenizer.

    Every process calls it; process 0 writes. The folder is built as ``NAME.incomplete`` beside its place and renamed
    when all of it is on disk, so a folder of the right name is complete; an exception removes the unfinished one,
    and the next export to the same place clears what a killed process left.

    Args:
        folder: local folder; made, with its parents.
        tokenizer: its files, chat template and stop ids join the export.
        generation_config: for ``generation_config.json``; token ids in it win over the tokenizer's.
        dtype: of the weights in the files: ``bfloat16``, ``float32`` or ``float16``.
        max_shard_bytes: tensor data per file; more makes shards and an index.
        overwrite: replace an earlier model folder of this name.

    Raises:
        ExtraError: another dtype, or the folder holds a model and ``overwrite`` is off, or something else than
            a model. When process 0 fails later on, as on a full disk, the others end with the run.
    """
    if jnp.dtype(dtype) not in DTYPES.values():
        raise ExtraError(f"export dtype {dtype!r} is not one of {', '.join(map(str, DTYPES.values()))}")
    target = local_path(folder).absolute()
    partial = target.with_name(target.name + ".incomplete")
    on_main(lambda: _begin(target, partial, overwrite))
    try:
        _write_weights(partial, params, config, jnp.dtype(dtype), max_shard_bytes)
        if is_main():
            _write_settings(partial, config, tokenizer, generation_config, dtype)
            replace_folder(partial, target)
    except BaseException as error:
        if is_main():
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unwritable(target, error) from error
        raise
    agree(0)  # nobody goes on before the folder is there


def _begin(target: Path, partial: Path, overwrite: bool) -> None:
    """Makes the folder in which an export is built, if it may go to ``target``."""
    try:
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            if not (target / "config.json").exists():
                raise ExtraError(f"{target}: exists and is not a model folder; export to another place")
            if not overwrite:
                raise ExtraError(f"{target}: already holds a model; export to another place, or pass overwrite=True")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(target, error) from error


def _unwritable(target: Path, error: OSError) -> ExtraError:
    return ExtraError(f"{target}: cannot be written ({error.strerror or error}); make room there or export elsewhere")


def _write_weights(
    folder: Path, params: nnx.State, config: Qwen3Config, dtype: jnp.dtype, max_shard_bytes: float
) -> None:
    leaves, _ = _flatten(params)
    tensors = {tensor.name: tensor for tensor in hf_tensors(config)}
    shapes = {name: t.layout.hf_shape(_layer_shape(t, leaves[t.path].shape)) for name, t in tensors.items()}
    counts = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    shards = plan_shards({name: count * dtype.itemsize for name, count in counts.items()}, max_shard_bytes)

    def fetch(name: str) -> np.ndarray:
        tensor = tensors[name]
        return _gather(leaves[tensor.path], tensor, dtype)

    for file, names in shards.items():
        if is_main():
            write_tensors(folder / file, {name: shapes[name] for name in names}, dtype, fetch)
        else:
            for name in sorted(names):  # the order of the writer
                fetch(name)
    if SINGLE not in shards and is_main():
        metadata = {
            "total_parameters": sum(counts.values()),
            "total_size": sum(counts.values()) * dtype.itemsize,
        }
        placed = {name: file for file, names in shards.items() for name in names}
        write_json(folder / INDEX, {"metadata": metadata, "weight_map": placed})


def _gather(param: jax.Array, tensor: HFTensor, dtype: jnp.dtype) -> np.ndarray:
    """One tensor in the arrangement of the file, on the host of every process.

    One process puts the pieces together on its host; several can only see all of it by holding it on each device.
    """
    sharding = None
    if isinstance(param.sharding, NamedSharding):
        spec = _hf_spec(tensor, param.sharding) if param.is_fully_addressable else PartitionSpec()
        sharding = NamedSharding(param.sharding.mesh, spec)
    layer = None if tensor.layer is None else jnp.int32(tensor.layer)
    value = _extract(param, layer, tensor.layout, dtype, sharding)
    return np.asarray(value if param.is_fully_addressable else value.addressable_data(0))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _extract(
    param: jax.Array, layer: jax.Array | None, layout: Layout, dtype: jnp.dtype, sharding: Sharding | None
) -> jax.Array:
    value = param if layer is None else jax.lax.dynamic_index_in_dim(param, layer, keepdims=False)
    value = layout.to_hf(value).astype(dtype)
    return value if sharding is None else jax.lax.with_sharding_constraint(value, sharding)


def _write_settings(
    folder: Path,
    config: Qwen3Config,
    tokenizer: ExportedTokenizer | None,
    generation_config: Mapping[str, Any] | None,
    dtype: str,
) -> None:
    """Everything but the weights; ``config.json`` last, because without it nothing takes the folder for a model."""
    ids: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if tokenizer is not None:
        tokenizer.save(folder)  # with the sampling defaults that came with it, which are kept
        stop = [int(token) for token in tokenizer.stop_ids]
        ids |= {"eos_token_id": stop[0] if len(stop) == 1 else stop, "pad_token_id": tokenizer.pad_id}
    file, given = folder / "generation_config.json", dict(generation_config or {})
    kept = read_json_object(file) if file.exists() else {}
    ids |= {"bos_token_id": kept.get("bos_token_id")} | {key: value for key, value in given.items() if key in ids}
    write_json(file, kept | given | {key: value for key, value in ids.items() if value is not None})
    write_json(folder / "config.json", config.to_hf() | ids | {"dtype": dtype, "torch_dtype": dtype})
