"""Where a completion may be cut: newline tokens, gaps, limits (method/extra.md a.4-3, b.3, D2, D8)."""

from functools import lru_cache

import numpy as np

from extra_jax.config import PrefixConfig
from extra_jax.data.tokenizer import Tokenizer

_EXACT_BELOW = 1000  # the release looks for further newline tokens among these ids only


@lru_cache(maxsize=4)
def newline_table(tokenizer: Tokenizer, rule: str) -> np.ndarray:
    """``[V]`` bool; 1 marks a token behind which a completion may be cut. Computed once a tokenizer.

    Args:
        tokenizer: whose tokens are decoded one by one.
        rule: ``contains_newline``: the text of the token holds a newline. Byte-pair vocabularies merge it with what is
            before it (".\\n\\n", ":\\n"): Qwen's has 2,178 such tokens. ``double_newline``: it holds an empty line.
            ``exact_ids``: the release's set, the tokens of "\\n" and "\\n\\n" and small ids that are one newline.
    """
    table = np.zeros(tokenizer.vocab_size, bool)
    if rule == "exact_ids":
        table[tokenizer.encode("\n") + tokenizer.encode("\n\n")] = True
        below = min(_EXACT_BELOW, tokenizer.vocab_size)
        table[:below] |= [tokenizer.decode([token]) == "\n" for token in range(below)]
    else:
        wanted = {"contains_newline": "\n", "double_newline": "\n\n"}[rule]
        table[:] = [wanted in tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    return table


def cut_lengths(tokens: np.ndarray, table: np.ndarray, config: PrefixConfig) -> list[int]:
    """Lengths of the prefixes that a completion offers, ascending.

    Args:
        tokens: ``[L]`` completion tokens.
        table: of ``newline_table``; not used with ``cut=every``.
        config: rule, gap, number and range.
    """
    length = len(tokens)
    known = np.minimum(tokens, len(table) - 1)  # a model may have more rows than the tokenizer has tokens
    at = np.zeros(0, np.int64) if config.cut == "every" else np.flatnonzero(table[known] & (tokens < len(table))) + 1
    chosen = thin(_in_range(at, length, config), config)
    if not chosen and (config.cut == "every" or config.fallback):
        every = np.arange(config.every, length, config.every)
        chosen = thin(_in_range(every, length, config), config)
    return [cut for cut in chosen if cut < length]  # a whole completion leaves nothing to continue


def thin(lengths: np.ndarray, config: PrefixConfig) -> list[int]:
    """Keeps a cut when it is ``min_gap`` behind the last one kept, and at most ``max_cuts`` of them."""
    kept: list[int] = []
    for length in lengths.tolist():
        if not kept or length - kept[-1] >= config.min_gap:
            kept.append(length)
    if config.drop_last and len(kept) > 1:
        kept.pop()
    if len(kept) <= config.max_cuts:
        return kept
    if config.spacing == "floor":
        return [kept[i * len(kept) // config.max_cuts] for i in range(config.max_cuts)]
    return [kept[i] for i in np.linspace(0, len(kept) - 1, config.max_cuts).round().astype(int)]


def _in_range(lengths: np.ndarray, completion: int, config: PrefixConfig) -> np.ndarray:
    """At least ``min_tokens``, at most ``max_fraction`` of the completion."""
    longest = completion if config.max_fraction is None else int(config.max_fraction * completion)
    return lengths[(lengths >= config.min_tokens) & (lengths <= longest)]


def before_stop(text: str, config: PrefixConfig) -> bool:
    """Whether a prefix text ends before everything in ``stop_at``: behind the answer there is nothing to regenerate."""
    return not any(stop in text for stop in config.stop_at)
