"""Cuts, scores and choices of prefixes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.data.tokenizer import load_tokenizer
from extra_jax.explore.attempts import (
    Choosing,
    Prefix,
    by_length,
    leaks,
    lowest,
    lowest_entropy,
    newline_table,
    prefix_scores,
    smoothed_scores,
    source_rollout,
)
from extra_jax.explore.prefix_settings import CutRules


class Merged:
    """A vocabulary in which newlines are merged with what is before them, as in byte-pair encodings."""

    pieces = ("a", "b", ".", "\n", "\n\n", ".\n", ":\n\n", "\nx", "<end>")
    vocab_size, stop_ids, pad_id = len(pieces), (8,), 8

    def encode(self, text: str) -> list[int]:
        return [self.pieces.index(text)]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[i] for i in ids if i != 8)


def prefix(score: float, tokens: list[int], vector: np.ndarray | None = None, fraction: float = 0.5) -> Prefix:
    return Prefix(np.array(tokens, np.int32), score, vector, 0, 0, 1, fraction, False, False)


def test_the_newline_table_reads_the_text_of_each_token():
    tokenizer = Merged()
    assert np.flatnonzero(newline_table(tokenizer, "contains_newline")).tolist() == [3, 4, 5, 6, 7]
    assert np.flatnonzero(newline_table(tokenizer, "double_newline")).tolist() == [4, 6]
    assert np.flatnonzero(newline_table(tokenizer, "as_released")).tolist() == [3, 4]
    assert not newline_table(tokenizer, "every").any()
    assert newline_table(tokenizer, "as_released") is newline_table(tokenizer, "as_released"), "computed once"


def test_the_newline_table_of_the_tiny_tokenizer():
    tokenizer = load_tokenizer("tiny")
    table = newline_table(tokenizer, "contains_newline")
    assert [tokenizer.decode([i]) for i in np.flatnonzero(table)] == ["\n"]
    assert (table == newline_table(tokenizer, "as_released")).all()


NEWLINES = newline_table(Merged(), "contains_newline")


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=300),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(0, 40),
    st.sampled_from([None, 0.5, 0.7]),
)
@settings(max_examples=100, deadline=None)
def test_cuts_keep_gap_number_and_range(tokens, gap, most, least, fraction):
    rules = CutRules(min_gap=gap, max_cuts=most, min_tokens=least, max_fraction=fraction, every=16)
    tokens = np.array(tokens)
    cuts = rules.lengths(tokens, NEWLINES)
    assert cuts == sorted(set(cuts))
    assert len(cuts) <= most
    assert all(b - a >= gap for a, b in pairwise(cuts))
    assert all(max(least, 1) <= cut < len(tokens) for cut in cuts)
    assert all(cut <= (fraction or 1.0) * len(tokens) for cut in cuts)
    newlines = {i + 1 for i, token in enumerate(tokens) if token >= 3}
    assert set(cuts) <= newlines or not set(cuts) & newlines or all(cut % 16 == 0 for cut in cuts)


def test_even_spacing_keeps_the_first_and_the_last():
    tokens = np.zeros(1001, np.int32)
    tokens[9:1000:10] = 3
    rules = CutRules(min_gap=10, max_cuts=5, min_tokens=0, max_fraction=None)
    assert rules.lengths(tokens, NEWLINES) == [10, 260, 510, 750, 1000]


def test_without_newlines_there_is_a_cut_every_so_many_tokens_but_not_as_released():
    tokens = np.zeros(100, np.int32)
    assert CutRules(every=20, max_fraction=0.7).lengths(tokens, NEWLINES) == [40]
    assert CutRules(every=20, min_gap=20, min_tokens=0).lengths(tokens, NEWLINES) == [20, 40, 60]
    assert CutRules(cut="as_released", every=20).lengths(tokens, newline_table(Merged(), "as_released")) == []


def test_the_rule_every_does_not_look_at_newlines():
    tokens = np.zeros(100, np.int32)
    tokens[40] = 3
    assert CutRules(cut="every", every=30).lengths(tokens, newline_table(Merged(), "every")) == [60]


def test_a_token_beyond_the_tokenizer_is_no_newline():
    assert CutRules(every=64, max_fraction=0.5).lengths(np.array([0] * 50 + [99] + [0] * 50), NEWLINES) == []


def test_a_whole_completion_is_no_prefix():
    rules = CutRules(min_tokens=0, min_gap=1, max_fraction=None)
    assert rules.lengths(np.array([0, 3, 0, 3]), NEWLINES) == [2]


@given(st.lists(st.floats(0, 5), min_size=3, max_size=60), st.data())
@settings(max_examples=50, deadline=None)
def test_scores_are_means_of_entropies(entropies, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(entropies)), min_size=1)))
    scores = prefix_scores(np.array(entropies), cuts)
    assert scores == pytest.approx([np.mean(entropies[:cut]) for cut in cuts], abs=1e-9)


def test_the_source_rollout():
    entropies, correct = np.array([0.5, 0.2, 0.9, 0.4]), np.array([True, False, False, True])
    assert source_rollout(entropies, correct, "lowest_entropy") == 1
    assert source_rollout(entropies, correct, "prefer_correct") == 3
    assert source_rollout(entropies, correct & False, "prefer_correct") == 1
    assert source_rollout(entropies, correct, "correct") == 3
    assert source_rollout(entropies, correct & False, "correct") is None
    assert source_rollout(entropies, correct, "wrong") == 1
    assert source_rollout(entropies, correct | True, "wrong") is None


def test_smoothing_is_a_softmax_average_over_the_memory():
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    prefixes = [prefix(s, [1], v) for s, v in zip((0.3, 0.5, 0.9), vectors, strict=True)]
    weights = np.exp(vectors @ vectors.T / 0.5)
    expected = (weights / weights.sum(1, keepdims=True)) @ [0.3, 0.5, 0.9]
    np.testing.assert_allclose(smoothed_scores(prefixes, "embedding", 0.5), expected, rtol=1e-6)
    assert smoothed_scores(prefixes, "none", 0.5).tolist() == [0.3, 0.5, 0.9]


def test_prefix_overlap_is_the_share_of_common_first_tokens():
    prefixes = [prefix(1.0, [1, 2, 3, 4]), prefix(2.0, [1, 2]), prefix(4.0, [9, 2, 3, 4])]
    similar = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    weights = np.exp(similar / 0.2)
    expected = (weights / weights.sum(1, keepdims=True)) @ [1.0, 2.0, 4.0]
    np.testing.assert_allclose(smoothed_scores(prefixes, "prefix_overlap", 0.2), expected)


def among(scores: list[float], fractions: list[float], level: float = 0.5, seed: int = 0) -> Choosing:
    pool = [prefix(s, [1], fraction=f) for s, f in zip(scores, fractions, strict=True)]
    best = int(np.argmin(scores))
    return Choosing("p0", pool, [], np.array(scores), level, np.zeros(20), False, np.random.default_rng(seed), best)


def test_the_lowest_score_is_taken_and_lots_are_drawn_between_equal_ones():
    scores = np.array([0.4, 0.2, 0.2 + 1e-12, 0.9])
    assert lowest(scores, True, np.random.default_rng(0)) == 1
    assert {lowest(scores, False, np.random.default_rng(i)) for i in range(20)} == {1, 2}
    choosing = among([0.4, 0.1, 0.3], [0.1, 0.2, 0.3])
    assert lowest_entropy(choosing) == (choosing.pool[1], 0.1)


@pytest.mark.parametrize(("level", "expected"), [(0.05, 0), (0.34, 1), (0.95, 2)])
def test_the_prefix_nearest_to_the_asked_for_length_is_taken_whatever_its_score(level, expected):
    choosing = among([0.9, 0.5, 0.1], [0.1, 0.4, 0.7], level)
    assert by_length(choosing) == (choosing.pool[expected], [0.9, 0.5, 0.1][expected])


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("so 24 it is", "24", True),
        ("so 124 it is", "24", False),
        ("so 24.5 it is", "24", False),
        ("so 24.", "24", True),
        ("3*8=24\n", "24", True),
        ("\\frac{1}{2}", "\\frac{1}{2}", True),
        ("x", "", False),
    ],
)
def test_a_leak_is_the_answer_as_a_whole_word(text, answer, expected):
    assert leaks(text, answer) is expected


def test_the_release_cuts_fewer_places():
    """Of the tokens that hold a newline, the ids that are exactly one or two are a part."""
    released = CutRules(cut="as_released", min_tokens=0, max_fraction=None, stop_at=())
    tokens = np.tile([0] * 39 + [6], 10)
    assert released.lengths(tokens, newline_table(Merged(), "as_released")) == []
    assert len(CutRules().lengths(tokens, NEWLINES)) == 7
