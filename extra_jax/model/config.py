"""Shape and arithmetic of a model, as a Hugging Face ``config.json`` states them."""

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
from extra_jax.model.families import FAMILIES, Family, ModelType, fill_in
from extra_jax.model.rope_scaling import SCALINGS, Llama3Scaling, RopeScaling

TINY_BASE = "tiny-base"  # the one model that ships in the package
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Keys of config.json that do not change what the model computes, beside all that begin with ``_`` or ``unsloth_``.
# fmt: off
_NEUTRAL_KEYS = {
    "architectures", "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id", "finetuning_task",
    "gradient_checkpointing", "id2label", "initializer_range", "is_decoder", "is_encoder_decoder", "label2id",
    "max_window_layers", "model_type", "name_or_path", "output_attentions", "output_hidden_states",
    "pad_token_id", "prefix", "pretraining_tp", "problem_type", "pruned_heads", "return_dict", "sep_token_id",
    "sliding_window", "task_specific_params", "tokenizer_class", "torch_dtype", "transformers_version", "use_cache",
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
    """A dense decoder of one of the ``FAMILIES``. Letters: ``L`` layers, ``D`` model, ``F`` feed-forward, ``N`` query
    heads, ``K`` kv heads, ``H`` head dim, ``V`` vocabulary."""

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
    model_type: ModelType = "qwen3"
    mlp_bias: bool = False
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        for key in ("attention_bias", "mlp_bias"):
            if getattr(self, key) and key not in self.family.switches:
                raise ExtraError(f"{key}=True: a model of model_type={self.model_type!r} has none")
        if self.model_type == "llama" and self.hidden_size % self.num_attention_heads:  # transformers refuses it, too
            raise ExtraError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.rope_scaling is not None and self.rope_theta <= 1:
            raise ExtraError(f"rope_theta={self.rope_theta} with rope_scaling is not above 1")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ExtraError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )

    @property
    def family(self) -> Family:
        """What sets models of this ``model_type`` apart."""
        return FAMILIES[self.model_type]

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.attention_bias or self.family.qkv_bias

    @property
    def context_length(self) -> int:
        """Positions that the model knows. Of YaRN, those that it was stretched to, which Qwen's files do not repeat."""
        scaling, stated = self.rope_scaling, self.max_position_embeddings
        if scaling is None or scaling.rope_type != "yarn":
            return stated
        return max(stated, int(scaling.factor * scaling.original_max_position_embeddings))

    @property
    def num_parameters(self) -> int:
        """Parameters, a tied head counted once."""
        d, f = self.hidden_size, self.intermediate_size
        attention = d * self.head_dim * 2 * (self.num_attention_heads + self.num_key_value_heads)
        bias = self.qkv_bias * self.head_dim * (self.num_attention_heads + 2 * self.num_key_value_heads)
        bias += self.attention_bias * d + self.mlp_bias * (2 * f + d)
        norms = 2 * d + self.family.qk_norm * 2 * self.head_dim
        embeddings = self.vocab_size * d * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * (attention + bias + 3 * d * f + norms) + d

    @classmethod
    def from_hf(cls, tree: Mapping[str, Any], origin: str = "config.json") -> "Qwen3Config":
        """Reads a Hugging Face configuration; ``origin`` names it in errors.

        Raises:
            ExtraError: another architecture, a missing key, or a key or value whose effect on the
                computation is not implemented here. Nothing that changes the maths is ignored.
        """
        family = FAMILIES.get(kind) if isinstance(kind := tree.get("model_type"), str) else None
        if family is None:
            raise ExtraError(
                f"{origin}: model_type is {kind!r:.80}; only dense {', '.join(map(repr, FAMILIES))} are supported"
            )
        rest = fill_in(tree, family)
        rope = _pop_rope(rest, origin)
        for key, supported in _ONLY.items():
            _demand(origin, key, rest.pop(key, supported), supported)
        if code := rest.pop("auto_map", None):
            raise ExtraError(
                f"{origin}: auto_map names Python code of the folder ({code!r:.80}), which is not run here; remove it "
                f"if the model is a plain {family.architecture} without that code"
            )
        _check_layer_types(origin, rest.pop("layer_types", None), rest.get("num_hidden_layers"))
        rest.setdefault("tie_word_embeddings", False)  # what transformers takes a missing key for
        fields = {field.name: field for field in dataclasses.fields(cls)}
        read = fields.keys() - ({"attention_bias", "mlp_bias"} - set(family.switches))
        if unknown := sorted(key for key, value in rest.items() if key not in read and not _is_neutral(key, value)):
            raise ExtraError(
                f"{origin}: keys {unknown} are not known to be without effect on the computation; if transformers' "
                f"{family.architecture} does not read them either, remove them from the file"
            )
        missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in rest]
        if missing:
            raise ExtraError(f"{origin}: missing keys {missing}; copy them from the config.json of the base model")
        try:
            return cls(**{key: value for key, value in rest.items() if key in read}, **rope)
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
        family, fields = self.family, dataclasses.asdict(self)
        for key in {"attention_bias", "mlp_bias"} - set(family.switches):
            del fields[key]
        if family.qkv_bias and self.head_dim == self.hidden_size // self.num_attention_heads:
            del fields["head_dim"]  # Qwen2's files leave it out
        windows = {"sliding_window": None, "use_sliding_window": False} if family.windows else {}
        return {
            "architectures": [family.architecture],
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": True,
            **windows,
            **fields,
        }


def _pop_rope(tree: dict[str, Any], origin: str) -> dict[str, Any]:
    """Takes everything about rotary embedding out of ``tree``: the base and the scaling, on which all places that
    state them agree."""
    bases, scalings = {"rope_theta": tree.pop("rope_theta", None)}, {}
    for key in ("rope_parameters", "rope_scaling"):
        stated = tree.pop(key, None)
        if stated is None:
            continue
        if not isinstance(stated, dict):
            raise ExtraError(f"{origin}: {key}={stated!r:.80} is no JSON object; correct the file")
        rest = {name: value for name, value in stated.items() if value is not None}
        bases[f"{key}.rope_theta"] = rest.pop("rope_theta", None)
        if rest:
            scalings[key] = _read_scaling(rest, origin, key)
    bases = {key: value for key, value in bases.items() if value is not None}
    if not bases:
        raise ExtraError(
            f"{origin}: rope_theta is missing; state it. Qwen3 and Qwen2.5 use 1e6, the 2507 models 5e6, Llama 3 5e5"
        )
    for name, values in (("rope_theta", bases), ("scaling", scalings)):
        if any(value != next(iter(values.values())) for value in values.values()):
            raise ExtraError(
                f"{origin}: {' but '.join(f'{key}={value!r:.80}' for key, value in values.items())}; transformers "
                f"reads one of them. Keep the {name} that the model was trained with, and remove the others"
            )
    return {"rope_theta": next(iter(bases.values())), "rope_scaling": next(iter(scalings.values()), None)}


def _read_scaling(stated: dict[str, Any], origin: str, key: str) -> RopeScaling | None:
    """The scaling that ``rope_scaling`` or ``rope_parameters`` states, without nulls and the base."""
    kinds = {name: stated.pop(name) for name in ("rope_type", "type") if name in stated}
    kind = next(iter(kinds.values()), "default")
    for name, value in kinds.items():
        if value != kind or not isinstance(value, str) or value not in ("default", *SCALINGS):
            raise ExtraError(
                f"{origin}: {key}.{name}={value!r:.80} is not supported (only one of 'default', "
                f"{', '.join(map(repr, SCALINGS))}); use a model without it"
            )
    if stated.pop("partial_rotary_factor", 1.0) != 1.0:
        raise ExtraError(f"{origin}: {key}.partial_rotary_factor is not supported (only 1.0); use a model without it")
    if kind == "default":
        for factor, value in sorted(stated.items()):
            _demand(origin, f"{key}.{factor}", value, 1.0 if factor.endswith("factor") else None)
        return None
    scaling = SCALINGS[kind]
    fields = {field.name: field for field in dataclasses.fields(scaling)}
    for unread in sorted(stated.keys() - fields.keys()):
        _demand(origin, f"{key}.{unread}", stated[unread], None)
    if missing := [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in stated]:
        raise ExtraError(f"{origin}: {key} lacks {missing}, which rope_type={kind!r} needs; state them")
    try:
        return scaling(**stated)
    except ValidationError as error:
        problems = [f"{key}.{p['loc'][0]}: {p['msg']} (got {p['input']!r:.80})" for p in error.errors()]
        raise ExtraError(f"{origin}: {'; '.join(problems)}. Correct the file, or fetch it again") from error
    except ExtraError as error:
        raise ExtraError(f"{origin}: {key}: {error}. Correct the file, or fetch it again") from error


def _check_layer_types(origin: str, kinds: Any, layers: Any) -> None:
    if kinds is None:
        return
    listed = kinds if isinstance(kinds, list) else []
    other = next((kind for kind in listed if kind != "full_attention"), kinds)
    if other is not kinds or len(listed) != layers:
        raise ExtraError(f"{origin}: layer_types={other!r:.80} is not supported, only 'full_attention' for every layer")


def _is_neutral(key: str, value: Any) -> bool:
    """Whether a key has no effect: a name that says so, or a value that switches something off."""
    return key in _NEUTRAL_KEYS or key.startswith(("_", "unsloth_")) or value in (None, False, [], {})


def _demand(origin: str, key: str, value: Any, supported: Any) -> None:
    if value != supported:
        raise ExtraError(f"{origin}: {key}={value!r:.80} is not supported (only {supported!r}); use a model without it")


def _dense(d: int, f: int, layers: int, heads: int, kv_heads: int, *, tied: bool) -> Qwen3Config:
    return Qwen3Config(151936, d, f, layers, heads, kv_heads, head_dim=128, tie_word_embeddings=tied)


def _qwen25(
    d: int, f: int, layers: int, heads: int, kv_heads: int, vocabulary: int = 151936, *, tied: bool = True, **more: Any
) -> Qwen3Config:
    more = {"max_position_embeddings": 32768} | more
    head_dim = d // heads
    return Qwen3Config(
        vocabulary, d, f, layers, heads, kv_heads, head_dim, tie_word_embeddings=tied, model_type="qwen2", **more
    )


def _llama3(d: int, f: int, layers: int, heads: int, factor: float, *, tied: bool) -> Qwen3Config:
    return Qwen3Config(
        128256,
        d,
        f,
        layers,
        heads,
        num_key_value_heads=8,
        head_dim=d // heads,
        rope_theta=5e5,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        max_position_embeddings=131072,
        model_type="llama",
        rope_scaling=Llama3Scaling(factor, 1.0, 4.0, 8192),
    )


PRESETS: dict[str, Qwen3Config] = {
    # Qwen/Qwen3-*/config.json. The 2507 models have the same shapes with rope_theta 5e6: load them from a folder.
    "0.6B": _dense(1024, 3072, 28, 16, 8, tied=True),
    "1.7B": _dense(2048, 6144, 28, 16, 8, tied=True),
    "4B": _dense(2560, 9728, 36, 32, 8, tied=True),
    "8B": _dense(4096, 12288, 36, 32, 8, tied=False),
    "14B": _dense(5120, 17408, 40, 40, 8, tied=False),
    "32B": _dense(5120, 25600, 64, 64, 8, tied=False),
    # Qwen/Qwen2.5-*-Instruct/config.json; Qwen2.5-Math and -Coder have the same shapes.
    "Qwen2.5-0.5B": _qwen25(896, 4864, 24, 14, 2),
    "Qwen2.5-1.5B": _qwen25(1536, 8960, 28, 12, 2),
    "Qwen2.5-3B": _qwen25(2048, 11008, 36, 16, 2),
    "Qwen2.5-7B": _qwen25(3584, 18944, 28, 28, 4, 152064, tied=False),
    # deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B/config.json, and nvidia/Nemotron-Research-Reasoning-Qwen-1.5B is
    # made of it.
    "R1-Distill-Qwen-1.5B": _qwen25(1536, 8960, 28, 12, 2, tied=False, rope_theta=1e4, max_position_embeddings=131072),
    # meta-llama/Llama-3.*/config.json; DeepSeek-R1-Distill-Llama-8B is the last.
    "Llama-3.2-1B": _llama3(2048, 8192, 16, 32, 32.0, tied=True),
    "Llama-3.2-3B": _llama3(3072, 8192, 28, 24, 32.0, tied=True),
    "Llama-3.1-8B": _llama3(4096, 14336, 32, 32, 8.0, tied=False),
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
