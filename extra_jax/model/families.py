"""The families of models that the one decoder computes, by the ``model_type`` of a Hugging Face ``config.json``.

A family is a row of this table: what the decoder switches on, and which keys its ``config.json`` has.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

ModelType = Literal["qwen3", "qwen2", "llama"]


@dataclasses.dataclass(frozen=True)
class Family:
    """What sets a family apart from the others.

    Attributes:
        architecture: class of ``transformers``, as ``config.json`` names it.
        qk_norm: queries and keys of each head have a norm.
        qkv_bias: queries, keys and values have biases and the output none, whatever ``config.json`` says. Elsewhere
            ``attention_bias`` gives all four theirs.
        switches: keys that switch something on here and that ``transformers`` reads for this family only.
        derived: what ``transformers`` derives from other keys where a key is left out.
        null_is_absent: a derived key that is null counts as left out.
        windows: ``config.json`` has keys of sliding windows.
    """

    architecture: str
    qk_norm: bool = False
    qkv_bias: bool = False
    switches: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    null_is_absent: bool = False
    windows: bool = True


FAMILIES: dict[str, Family] = {
    "qwen3": Family("Qwen3ForCausalLM", qk_norm=True, switches=("attention_bias",)),
    # Qwen2.5, QwQ, DeepSeek-R1-Distill-Qwen, the Nemotron reasoning models of 1.5 B and 7 B parameters
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, derived=("head_dim",)),
    # Llama 3.x, DeepSeek-R1-Distill-Llama, SmolLM2
    "llama": Family(
        "LlamaForCausalLM",
        switches=("attention_bias", "mlp_bias"),
        derived=("head_dim", "num_key_value_heads"),
        null_is_absent=True,
        windows=False,
    ),
}


def fill_in(tree: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """``tree`` of a ``config.json`` with the keys that ``transformers`` derives for its family."""
    heads, width = tree.get("num_attention_heads"), tree.get("hidden_size")
    known = {"num_key_value_heads": heads}
    if type(heads) is int and type(width) is int and heads > 0:
        known["head_dim"] = width // heads
    full = dict(tree)
    for key in family.derived:
        if key in known and (key not in tree or (family.null_is_absent and tree[key] is None)):
            full[key] = known[key]
    return full
