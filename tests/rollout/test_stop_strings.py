"""Completions that end with a text."""

import numpy as np
import pytest

from extra_jax.errors import ExtraError
from extra_jax.rollout.output import Output
from extra_jax.rollout.types import SamplingParams, StopReason
from rollout.tiny import STOP_IDS, detokenize, generate, requests

# Texts of the tests' detokenizer are one character a token; these occur in many completions.
STOPS = (detokenize([5]), detokenize([11]), detokenize([30]), detokenize([9, 4]), detokenize([2, 60]))


@pytest.fixture(scope="module")
def free():
    return generate(requests())


@pytest.mark.parametrize("chunk", [1, 4, 32])
def test_a_completion_ends_with_the_token_that_completes_a_stop_string(free, chunk):
    stopped = generate(requests(), stop_strings=STOPS, chunk=chunk)
    reasons = set()
    for row in range(64):
        text = detokenize(free.completion_ids(row))
        ends = [text.index(stop) + len(stop) for stop in STOPS if stop in text]
        expected = min(ends, default=len(text))
        assert stopped.completion_ids(row).tolist() == free.completion_ids(row)[:expected].tolist()
        np.testing.assert_allclose(stopped.logprobs[row, :expected], free.logprobs[row, :expected], atol=1e-5)
        reason = free.stop_reasons[row] if expected == len(text) and text[-1:] not in STOPS else StopReason.STOP_STRING
        if detokenize(STOP_IDS).find(text[expected - 1]) < 0:
            assert stopped.stop_reasons[row] is reason
        reasons.add(stopped.stop_reasons[row])
    assert reasons == set(StopReason)


def test_a_stop_string_is_found_across_chunks_and_tokens_without_text():
    """The text of a token may be a part of a character or nothing, and a stop string may span many tokens."""
    pieces = ["a", "<", "", "/ans", "", "wer", ">", "b"]
    params = SamplingParams(stop_strings=("</answer>",))
    output = Output([requests()[0]], params, lambda ids: "".join(pieces[i] for i in ids))
    for token in range(6):
        assert output.cut(0, np.array([token])) is None
        output.tokens[0, token] = token
        output.extend(0, 1, None)
    assert output.cut(0, np.array([6, 7])) == 1


def test_stop_strings_without_a_tokenizer_are_refused():
    with pytest.raises(ExtraError, match="detokenize"):
        Output(requests(), SamplingParams(stop_strings=("x",)), None)
