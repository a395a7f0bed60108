"""Shape and arithmetic of a dense Qwen3, as a Hugging Face ``config.json`` states them."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

import extra_jax
from extra_jax.errors import ExtraError
from extra_jax.files import read_json_object

TINY_BASE = "tiny-base"  # the one model that ships in the package
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Keys of config.json that do not change what the model computes, beside all that begin with ``_`` or ``unsloth_``.
# fmt: off
_NEUTRAL_KEYS = {
    "architectures", "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id", "finetuning_task",
    "gradient_checkpointing", "id2label", "initializer_range", "is_decoder", "is_encoder_decoder", "label2id",
    "max_window_layers", "model_type", "name_or_path", "output_attentions", "output_hidden_states",
    "pad_token_id", "prefix", "problem_type", "pruned_heads", "return_dict", "sep_token_id", "sliding_window",
    "task_specific_params", "tokenizer_class", "torch_dtype", "transformers_version", "use_cache",
    # What older versions of transformers kept here for sampling.
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "max_length", "max_new_tokens", "min_length",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores",
    "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature",
    "top_k", "top_p", "typical_p",
}
# fmt: on
# Keys of which one value is computed here.
_ONLY: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "quantization_config": None,
}

Size = Annotated[int, Field(ge=1, le=1 << 24)]


@dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class Qwen3Config:
    """A dense Qwen3. Letters: ``L`` layers, ``D`` model, ``F`` feed-forward, ``N`` query heads, ``K`` kv heads,
    ``H`` head dim, ``V`` vocabulary."""

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000)]
    num_attention_heads: Annotated[int, Field(ge=1, le=4096)]
    num_key_value_heads: Annotated[int, Field(ge=1, le=4096)]
    head_dim: Annotated[int, Field(ge=2, le=4096, multiple_of=2)]  # rotary embedding turns pairs
    rope_theta: Annotated[float, Field(gt=0, le=1e12)] = 1e6
    rms_norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-6
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    max_position_embeddings: Annotated[int, Field(ge=1, le=1 << 31)] = 40960

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ExtraError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )

    @property
    def num_parameters(self) -> int:
        """Parameters, a tied head counted once."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_attention_heads + self.num_key_value_heads)
        bias = self.head_dim * (self.num_attention_heads + 2 * self.num_key_value_heads) + self.hidden_size
        layer = attention + self.attention_bias * bias + 3 * self.hidden_size * self.intermediate_size
        norms = 2 * self.hidden_size + 2 * self.head_dim
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * (layer + norms) + self.hidden_size

    @classmethod
    def from_hf(cls, tree: Mapping[str, Any], origin: str = "config.json") -> "Qwen3Config":
        """Reads a Hugging Face configuration; ``origin`` names it in errors.

        Raises:
            ExtraError: another architecture, a missing key, or a key or value whose effect on the
                computation is not implemented here. Nothing that changes the maths is ignored.
        """
        if tree.get("model_type") != "qwen3":
            raise ExtraError(f"{origin}: model_type is {tree.get('model_type')!r}; only dense 'qwen3' is supported")
        rest = dict(tree)
        theta = _pop_rope_theta(rest, origin)
        for key, supported in _ONLY.items():
            _demand(origin, key, rest.pop(key, supported), supported)
        if code := rest.pop("auto_map", None):
            raise ExtraError(
                f"{origin}: auto_map names Python code of the folder ({code!r:.80}), which is not run here; remove it "
                "if the model is a plain Qwen3 without that code"
            )
        kinds = rest.pop("layer_types", None)
        if kinds is not None and (not isinstance(kinds, list) or kinds != ["full_attention"] * len(kinds)):
            raise ExtraError(f"{origin}: layer_types={kinds!r:.80} is not supported, only a list of 'full_attention'")
        rest.setdefault("tie_word_embeddings", False)  # what transformers takes a missing key for
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(key for key, value in rest.items() if key not in fields and not _is_neutral(key, value)):
            raise ExtraError(
                f"{origin}: keys {unknown} are not known to be without effect on the computation; if transformers' "
                "Qwen3 does not read them either, remove them from the file"
            )
        missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in rest]
        if missing:
            raise ExtraError(f"{origin}: missing keys {missing}; copy them from the config.json of the base model")
        try:
            return cls(**{key: value for key, value in rest.items() if key in fields}, rope_theta=theta)
        except ValidationError as error:
            problems = [f"{p['loc'][0]}: {p['msg']} (got {p['input']!r:.80})" for p in error.errors()]
            raise ExtraError(f"{origin}: {'; '.join(problems)}. Correct the file, or fetch it again") from error
        except ExtraError as error:
            raise ExtraError(f"{origin}: {error}. Correct the file, or fetch it again") from error

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Qwen3Config":
        """Reads ``config.json`` of a Hugging Face folder."""
        path = Path(folder) / "config.json"
        if not path.exists():
            raise ExtraError(
                f"{path}: no such file; model.path must be a Hugging Face model folder. An adapter (LoRA) is merged "
                "into its base model first"
            )
        return cls.from_hf(read_json_object(path), str(path))

    def to_hf(self) -> dict[str, Any]:
        """The ``config.json`` that ``transformers`` reads (the flat 4.51 spelling, which later versions read too)."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "rope_scaling": None,
            "sliding_window": None,
            "use_sliding_window": False,
            "use_cache": True,
            **dataclasses.asdict(self),
        }


def _pop_rope_theta(tree: dict[str, Any], origin: str) -> Any:
    """Takes everything about rotary embedding out of ``tree``; the base, on which all places that state it agree."""
    stated = {"rope_theta": tree.pop("rope_theta", None)}
    for key in ("rope_parameters", "rope_scaling"):
        rope = tree.pop(key, None)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise ExtraError(f"{origin}: {key}={rope!r:.80} is no JSON object; correct the file")
        stated[f"{key}.rope_theta"] = rope.get("rope_theta")
        for name in ("rope_type", "type"):
            _demand(origin, f"{key}.{name}", rope.get(name) or "default", "default")
        for name in sorted(rope.keys() - {"rope_theta", "rope_type", "type"}):
            if rope[name] is not None:
                _demand(origin, f"{key}.{name}", rope[name], 1.0 if name.endswith("factor") else None)
    stated = {key: value for key, value in stated.items() if value is not None}
    if not stated:
        raise ExtraError(f"{origin}: rope_theta is missing; Qwen3 uses 1e6, the 2507 models 5e6: state it")
    theta = next(iter(stated.values()))
    if any(value != theta for value in stated.values()):
        raise ExtraError(
            f"{origin}: {' but '.join(f'{key}={value!r:.40}' for key, value in stated.items())}; transformers reads "
            "the innermost. Keep the value that the model was trained with, and remove the others"
        )
    return theta


def _is_neutral(key: str, value: Any) -> bool:
    """Whether a key has no effect: a name that says so, or a value that switches something off."""
    return key in _NEUTRAL_KEYS or key.startswith(("_", "unsloth_")) or value in (None, False, [], {})


def _demand(origin: str, key: str, value: Any, supported: Any) -> None:
    if value != supported:
        raise ExtraError(f"{origin}: {key}={value!r:.80} is not supported (only {supported!r}); use a model without it")


def _dense(d: int, f: int, layers: int, heads: int, kv_heads: int, *, tied: bool) -> Qwen3Config:
    return Qwen3Config(151936, d, f, layers, heads, kv_heads, head_dim=128, tie_word_embeddings=tied)


PRESETS: dict[str, Qwen3Config] = {
    # Qwen/Qwen3-*/config.json. The 2507 models have the same shapes with rope_theta 5e6: load them from a folder.
    "0.6B": _dense(1024, 3072, 28, 16, 8, tied=True),
    "1.7B": _dense(2048, 6144, 28, 16, 8, tied=True),
    "4B": _dense(2560, 9728, 36, 32, 8, tied=True),
    "8B": _dense(4096, 12288, 36, 32, 8, tied=False),
    "14B": _dense(5120, 17408, 40, 40, 8, tied=False),
    "32B": _dense(5120, 25600, 64, 64, 8, tied=False),
    # 0.8 M parameters and the vocabulary of the tokenizer in the package: trains on a laptop.
    "tiny": Qwen3Config(64, 128, 384, 4, 4, 2, head_dim=32, max_position_embeddings=1024),
    # The real vocabulary on a body small enough for a CPU: exercises the head and the real tokenizer.
    "smoke": Qwen3Config(151936, 64, 128, 2, 4, 2, head_dim=16, max_position_embeddings=4096),
}


def preset(name: str | None) -> Qwen3Config:
    """The configuration of a named size."""
    if name not in PRESETS:
        raise ExtraError(f"model.preset={name!r} is unknown; presets: {', '.join(PRESETS)}")
    return PRESETS[name]


def model_folder(path: str) -> Path:
    """The folder of ``model.path``; ``tiny-base`` names the one in the package, and ``ORG/NAME`` is downloaded.

    Raises:
        ExtraError: no such folder, or the hub cannot be reached or refuses.
    """
    if path == TINY_BASE:
        folder = Path(extra_jax.__file__).parent / "assets" / "tiny_base"
        remedy = "this installation lacks the model of the package; reinstall it, or make it again with scripts/"
    else:
        folder = Path(path).expanduser()
        remedy = f"give a Hugging Face model folder, or {TINY_BASE!r}"
    if is_hub_name(path):
        return _downloaded(path)
    if not folder.is_dir():
        raise ExtraError(f"model.path={path}: {folder} is not a folder; {remedy}")
    return folder


def is_hub_name(path: str) -> bool:
    """Whether this may be a model of the Hugging Face hub: ``ORG/NAME``, and no folder of this name is here."""
    return _HUB_NAME.fullmatch(path) is not None and not Path(path).is_dir()


def _downloaded(name: str) -> Path:
    """The snapshot of a model of the hub in the cache of ``huggingface_hub``; only the first call needs a network."""
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # no network, no such model, a gated one: each has a class of its own
        reason = str(error).strip().partition("\n")[0]
        raise ExtraError(
            f"model.path={name}: there is no such folder, and the model cannot be downloaded "
            f"({type(error).__name__}: {reason}). Check the name and the network (gated models need `hf auth login`), "
            "or download it elsewhere and give its folder"
        ) from error
