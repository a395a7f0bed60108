"""Cuts, scores and choices of prefixes."""

from itertools import pairwise

import numpy as np
import pytest
from extra_jax.explore.cuts import before_stop, cut_lengths, newline_table
from extra_jax.explore.prefix import Prefix, choose, prefix_scores, smoothed_scores, source_rollout
from extra_jax.explore.proposals import leaks
from hypothesis import given, settings
from hypothesis import strategies as st

from explore.steps import config_of
from extra_jax.config import PrefixConfig
from extra_jax.data.tokenizer import load_tokenizer

RNG = np.random.default_rng(0)


class Merged:
    """A vocabulary in which newlines are merged with what is before them, as in byte-pair encodings."""

    pieces = ("a", "b", ".", "\n", "\n\n", ".\n", ":\n\n", "\nx", "<end>")
    vocab_size, stop_ids, pad_id = len(pieces), (8,), 8

    def encode(self, text: str) -> list[int]:
        return [self.pieces.index(text)]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[i] for i in ids if i != 8)


def prefix(score: float, tokens: list[int], vector: np.ndarray | None = None) -> Prefix:
    return Prefix(np.array(tokens, np.int32), score, vector, 0, 0, 1, 0.5, False, False)


def test_the_newline_table_reads_the_text_of_each_token():
    tokenizer = Merged()
    assert np.flatnonzero(newline_table(tokenizer, "contains_newline")).tolist() == [3, 4, 5, 6, 7]
    assert np.flatnonzero(newline_table(tokenizer, "double_newline")).tolist() == [4, 6]
    assert np.flatnonzero(newline_table(tokenizer, "exact_ids")).tolist() == [3, 4]
    assert newline_table(tokenizer, "exact_ids") is newline_table(tokenizer, "exact_ids"), "computed once"


def test_the_newline_table_of_the_tiny_tokenizer():
    tokenizer = load_tokenizer("tiny")
    table = newline_table(tokenizer, "contains_newline")
    assert [tokenizer.decode([i]) for i in np.flatnonzero(table)] == ["\n"]
    assert (table == newline_table(tokenizer, "exact_ids")).all()


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=300),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(0, 40),
    st.sampled_from([None, 0.5, 0.7]),
)
@settings(max_examples=100, deadline=None)
def test_cuts_keep_gap_number_and_range(tokens, gap, most, least, fraction):
    config = PrefixConfig(min_gap=gap, max_cuts=most, min_tokens=least, max_fraction=fraction, every=16)
    tokens = np.array(tokens)
    cuts = cut_lengths(tokens, newline_table(Merged(), "contains_newline"), config)
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
    config = PrefixConfig(min_gap=10, max_cuts=5, min_tokens=0, max_fraction=None)
    assert cut_lengths(tokens, newline_table(Merged(), "contains_newline"), config) == [10, 260, 510, 750, 1000]


def test_without_newlines_the_fallback_cuts_every_so_many_tokens():
    tokens, table = np.zeros(100, np.int32), newline_table(Merged(), "contains_newline")
    assert cut_lengths(tokens, table, PrefixConfig(every=20, max_fraction=0.7)) == [40]
    assert cut_lengths(tokens, table, PrefixConfig(every=20, min_gap=20, min_tokens=0, max_fraction=0.7)) == [
        20,
        40,
        60,
    ]
    assert cut_lengths(tokens, table, PrefixConfig(fallback=False)) == []
    assert cut_lengths(tokens, table, PrefixConfig(cut="every", every=30, fallback=False)) == [60]


def test_a_token_beyond_the_tokenizer_is_no_newline():
    assert cut_lengths(np.array([0] * 50 + [99] + [0] * 50), newline_table(Merged(), "contains_newline"), PrefixConfig(
        fallback=False)) == []  # fmt: skip


def test_no_cut_behind_the_answer():
    config = PrefixConfig(stop_at=("\\boxed", "</think>"))
    assert before_stop("so x = 2", config)
    assert not before_stop("so \\boxed{2} and", config)
    assert not before_stop("</think> so", config)


@given(st.lists(st.floats(0, 5), min_size=3, max_size=60), st.data())
@settings(max_examples=50, deadline=None)
def test_scores_are_means_of_entropies(entropies, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(entropies)), min_size=1)))
    whole = prefix_scores(np.array(entropies), cuts, PrefixConfig())
    assert whole == pytest.approx([np.mean(entropies[:cut]) for cut in cuts], abs=1e-9)
    window = prefix_scores(np.array(entropies), cuts, PrefixConfig(score="window_mte", window=5))
    assert window == pytest.approx([np.mean(entropies[max(0, cut - 5) : cut]) for cut in cuts], abs=1e-9)


def test_the_source_rollout():
    entropies, correct = np.array([0.5, 0.2, 0.9, 0.4]), np.array([True, False, False, True])
    assert source_rollout(entropies, correct, "min_mte", RNG) == 1
    assert source_rollout(entropies, correct, "max_mte", RNG) == 2
    assert source_rollout(entropies, correct, "prefer_correct", RNG) == 3
    assert source_rollout(entropies, correct & False, "prefer_correct", RNG) == 1
    assert source_rollout(entropies, correct, "correct", RNG) == 3
    assert source_rollout(entropies, correct & False, "correct", RNG) is None
    assert {source_rollout(entropies, correct, "random", np.random.default_rng(i)) for i in range(40)} == {0, 1, 2, 3}


def test_smoothing_is_a_softmax_average_over_the_memory():
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    prefixes = [prefix(s, [1], v) for s, v in zip((0.3, 0.5, 0.9), vectors, strict=True)]
    found = smoothed_scores(prefixes, "embedding", 0.5)
    weights = np.exp(vectors @ vectors.T / 0.5)
    np.testing.assert_allclose(found, (weights / weights.sum(1, keepdims=True)) @ [0.3, 0.5, 0.9], rtol=1e-6)
    assert smoothed_scores(prefixes, "none", 0.5).tolist() == [0.3, 0.5, 0.9]


def test_prefix_overlap_is_the_share_of_common_first_tokens():
    prefixes = [prefix(1.0, [1, 2, 3, 4]), prefix(2.0, [1, 2]), prefix(4.0, [9, 2, 3, 4])]
    similar = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    weights = np.exp(similar / 0.2)
    expected = (weights / weights.sum(1, keepdims=True)) @ [1.0, 2.0, 4.0]
    np.testing.assert_allclose(smoothed_scores(prefixes, "prefix_overlap", 0.2), expected)


def test_direction_and_ties():
    scores, lengths = np.array([0.4, 0.2, 0.2, 0.9]), np.array([1, 5, 9, 2])
    assert choose(scores, "low", "first", lengths, RNG).index == 1
    assert choose(scores, "low", "longest", lengths, RNG).index == 2
    assert choose(scores, "high", "first", lengths, RNG).index == 3
    assert choose(scores, "low", "first", lengths, RNG).tied == 2
    assert {choose(scores, "low", "random", lengths, np.random.default_rng(i)).index for i in range(20)} == {1, 2}


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
    """D2: of the tokens that hold a newline, the exact ids are a part."""
    release = config_of({"preset": "release_faithful"}).explore.prefix
    tokens = np.tile([0] * 39 + [6], 10)
    assert cut_lengths(tokens, newline_table(Merged(), release.cut), release) == []
    ours = PrefixConfig()
    assert len(cut_lengths(tokens, newline_table(Merged(), ours.cut), ours)) == 7
