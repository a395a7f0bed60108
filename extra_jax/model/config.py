"""Shape and arithmetic of a dense Qwen3, as a Hugging Face ``config.json`` states them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import extra_jax
from extra_jax.errors import ExtraError

TINY_BASE = "tiny-base"  # the one model that ships in the package

# Keys of config.json that do not change what the model computes.
_NEUTRAL_KEYS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "max_window_layers",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)


@dataclasses.dataclass(frozen=True)
class Qwen3Config:
    """A dense Qwen3. Letters: ``L`` layers, ``D`` model, ``F`` feed-forward, ``N`` query heads, ``K`` kv heads,
    ``H`` head dim, ``V`` vocabulary."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    max_position_embeddings: int = 40960

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ExtraError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ExtraError(f"head_dim={self.head_dim} is odd; rotary embedding needs an even one")

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
        rest = {key: value for key, value in tree.items() if key not in _NEUTRAL_KEYS}
        if tree.get("model_type") != "qwen3":
            raise ExtraError(f"{origin}: model_type is {tree.get('model_type')!r}; only dense 'qwen3' is supported")
        rope = dict(rest.pop("rope_parameters", None) or {})
        theta = rest.pop("rope_theta", rope.pop("rope_theta", None))
        _demand(origin, "rope_parameters.rope_type", rope.pop("rope_type", "default"), "default")
        if rope:
            raise ExtraError(
                f"{origin}: unsupported rope_parameters {sorted(rope)}; only the default rotary is supported"
            )
        for key, supported in (
            ("rope_scaling", None),
            ("hidden_act", "silu"),
            ("attention_dropout", 0.0),
            ("use_sliding_window", False),
        ):
            _demand(origin, key, rest.pop(key, supported), supported)
        rest.pop("sliding_window", None)  # without use_sliding_window it has no effect
        for kind in rest.pop("layer_types", None) or ():
            _demand(origin, "layer_types", kind, "full_attention")
        if theta is None:
            raise ExtraError(f"{origin}: rope_theta is missing; Qwen3 uses 1e6, the 2507 models 5e6: state it")
        rest.setdefault("tie_word_embeddings", False)  # what transformers takes a missing key for
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(rest.keys() - fields.keys()):
            raise ExtraError(f"{origin}: keys {unknown} are not known to be without effect on the computation")
        missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in rest]
        if missing:
            raise ExtraError(f"{origin}: missing keys {missing}")
        return cls(**rest, rope_theta=float(theta))

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Qwen3Config":
        """Reads ``config.json`` of a Hugging Face folder."""
        path = Path(folder) / "config.json"
        try:
            tree = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise ExtraError(f"{path}: no such file; model.path must be a Hugging Face model folder") from error
        except json.JSONDecodeError as error:
            raise ExtraError(f"{path}: not valid JSON: {error}") from error
        return cls.from_hf(tree, str(path))

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


def _demand(origin: str, key: str, value: Any, supported: Any) -> None:
    if value != supported:
        raise ExtraError(f"{origin}: {key}={value!r} is not supported (only {supported!r})")


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
    """The folder of ``model.path``; ``tiny-base`` names the one in the package.

    Raises:
        ExtraError: no such folder.
    """
    if path == TINY_BASE:
        folder = Path(extra_jax.__file__).parent / "assets" / "tiny_base"
        remedy = "this installation lacks the model of the package; reinstall it, or make it again with scripts/"
    else:
        folder = Path(path).expanduser()
        remedy = f"give a Hugging Face model folder, or {TINY_BASE!r}"
    if not folder.is_dir():
        raise ExtraError(f"model.path={path}: {folder} is not a folder; {remedy}")
    return folder
