"""Segments: cut as the rule says, mapped to tokens without decoding them."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.config import SegmentConfig
from extra_jax.errors import ExtraError
from extra_jax.judge.segment import Segmenter, TokenBytes, token_segments

WORDS = [
    b"",
    b"a",
    b"b ",
    b"\n",
    b"\n\n",
    b"#",
    b"##",
    b"### ",
    b"##\n",
    b"\xc3",
    b"\xa9",
    "é".encode(),
    b"x#",
    b" #\n",
]
VOCABULARY = TokenBytes(WORDS)
ids_of = st.lists(st.integers(0, len(WORDS) - 1), min_size=1, max_size=60)


def cut(ids, **rule):
    return Segmenter(SegmentConfig(**rule), VOCABULARY).cut(np.array(ids))


def by_hand(text: str, ids: list[int], **rule) -> list[str]:
    """Pieces of a text of whole characters, by a loop over its delimiters."""
    rule = SegmentConfig(**rule)
    ends = np.cumsum([len(WORDS[i]) for i in ids])
    first_token = lambda at: int(np.sum(ends <= len(text[:at].encode())))  # noqa: E731
    starts = [0]
    for match in re.finditer(rule.delimiter, text, re.MULTILINE | re.ASCII):
        if rule.min_tokens <= first_token(match.start()) - first_token(starts[-1]) * (starts[-1] > 0):
            starts.append(match.start())
    if len(starts) > 1 and len(ids) - first_token(starts[-1]) < rule.min_tokens:
        starts.pop()
    if len(starts) > rule.max_segments:
        starts = [starts[i * len(starts) // rule.max_segments] for i in range(rule.max_segments)]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


@given(ids_of, st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=300)
def test_pieces_against_a_loop_over_the_text(ids, min_tokens, max_segments):
    raw = b"".join(WORDS[i] for i in ids)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    rule = {"min_tokens": min_tokens, "max_segments": max_segments}
    segments = cut(ids, **rule)
    borders = [0, *segments.characters.tolist()]
    pieces = [segments.text[a:b] for a, b in itertools.pairwise(borders)]
    assert pieces == by_hand(text, ids, **rule)


@given(ids_of, st.sampled_from(["none", "blank_lines", "equal_tokens"]), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=300)
def test_pieces_cover_the_trace_without_gaps(ids, fallback, min_tokens, max_segments):
    segments = cut(ids, fallback=fallback, min_tokens=min_tokens, max_segments=max_segments)
    assert segments.text == b"".join(WORDS[i] for i in ids).decode(errors="replace")
    for ends, total in ((segments.tokens, len(ids)), (segments.characters, len(segments.text))):
        assert ends[-1] == total
        assert (np.diff(ends, prepend=0) >= 0).all()
    lengths = np.diff(segments.tokens, prepend=0)
    assert len(segments) == 1 or lengths.min() >= min_tokens
    assert len(segments) <= max_segments
    # What the tokens of a piece say is the piece, up to a token that straddles the cut.
    owner = token_segments(segments.tokens)
    assert len(owner) == len(ids)
    assert (np.bincount(owner, minlength=len(segments)) == lengths).all()


def test_the_delimiter_opens_the_new_segment():
    ids = [1, 3, 7, 1, 3, 7, 2]  # "a\n### a\n### b "
    segments = cut(ids, min_tokens=1)
    assert segments.text == "a\n### a\n### b "
    assert segments.tokens.tolist() == [2, 5, 7]
    assert [segments.text[:end] for end in segments.characters] == ["a\n", "a\n### a\n", "a\n### a\n### b "]


def test_a_delimiter_at_the_start_or_the_end_makes_no_piece_of_its_own():
    assert cut([7, 1, 1, 3, 7], min_tokens=2).tokens.tolist() == [5]
    assert cut([7, 1, 1, 3, 7, 1], min_tokens=2).tokens.tolist() == [4, 6]


def test_short_pieces_join_the_next_and_many_are_merged_evenly():
    line = [3, 7, 1]
    assert cut(line * 8, min_tokens=1, max_segments=99).tokens.tolist() == [1, 4, 7, 10, 13, 16, 19, 22, 24]
    assert cut(line * 8, min_tokens=5, max_segments=99).tokens.tolist() == [7, 13, 19, 24]
    merged = cut(line * 8, min_tokens=1, max_segments=4).tokens
    assert merged.tolist() == [4, 10, 16, 24]


def test_fallbacks_apply_only_where_nothing_was_cut():
    text = [1, 4, 1, 1, 4, 2, 2]  # "a\n\naa\n\nb b "
    assert cut(text, min_tokens=1).tokens.tolist() == [7]
    assert cut(text, min_tokens=1, fallback="blank_lines").tokens.tolist() == [2, 5, 7]
    assert cut(text, min_tokens=2, max_segments=3, fallback="equal_tokens").tokens.tolist() == [2, 4, 7]
    assert cut([1, 3, 7, 1], min_tokens=1, fallback="equal_tokens").tokens.tolist() == [2, 4]


def test_a_bad_delimiter_is_named():
    with pytest.raises(ExtraError, match=r"segments\.delimiter"):
        Segmenter(SegmentConfig(delimiter="(#"), VOCABULARY)
