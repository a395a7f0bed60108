"""What a user may rely on from ``Sampler.generate``, whatever happens inside."""

import jax
import numpy as np
import pytest
from scipy import stats

from extra_jax.errors import ExtraError
from extra_jax.rollout.types import Request, StopReason
from rollout.tiny import (
    CAP,
    CONFIG,
    MAX_PROMPT,
    MESHES,
    STOP_IDS,
    by_id,
    generate,
    prompts,
    requests,
    rollout_weights,
    sampler,
)

THREES = [Request(ids, 3, index * 8) for index, ids in enumerate(prompts())]  # 3 at once: eight do not divide


@pytest.fixture(scope="module")
def rollouts():
    """Eight prompts of length 1 to 8, eight samples each."""
    return generate(requests())


def test_rows_come_in_request_order_with_their_identity(rollouts):
    assert rollouts.rollout_ids.tolist() == list(range(64))
    assert rollouts.prompt_index.tolist() == [i // 8 for i in range(64)]
    for index, ids in zip(rollouts.prompt_index, rollouts.prompt_ids, strict=True):
        assert ids.tolist() == prompts()[index]
    assert rollouts.tokens.shape[0] == len(rollouts) == len(rollouts.stop_reasons)
    assert ((rollouts.lengths >= 1) & (rollouts.lengths <= CAP)).all()


def test_exactly_one_stop_token_is_kept_and_only_where_the_reason_says_so(rollouts):
    for row, reason in enumerate(rollouts.stop_reasons):
        *before, last = rollouts.completion_ids(row)
        assert not np.isin(before, STOP_IDS).any()
        assert np.isin(last, STOP_IDS) == (reason is StopReason.STOP_TOKEN)
        assert reason is StopReason.STOP_TOKEN or rollouts.lengths[row] == CAP
    assert len(set(rollouts.stop_reasons)) == 2


def test_a_row_may_stop_at_its_first_token_and_stop_with_the_padding_token(rollouts):
    stopped = np.array([reason is StopReason.STOP_TOKEN for reason in rollouts.stop_reasons])
    last = rollouts.tokens[np.arange(64), rollouts.lengths - 1]
    assert (stopped & (rollouts.lengths == 1)).any()
    assert (stopped & (last == 0)).any()
    assert (rollouts.completion_mask.sum(axis=1) == rollouts.lengths).all()
    assert (rollouts.truncated == ~stopped).all()


def test_a_stop_token_drawn_at_the_cap_is_a_stop_token():
    short = generate(requests(), max_completion_length=1)
    assert (short.lengths == 1).all()
    stopped = np.array([reason is StopReason.STOP_TOKEN for reason in short.stop_reasons])
    assert (stopped == np.isin(short.tokens[:, 0], STOP_IDS)).all()
    assert 0 < stopped.sum() < 64


def test_a_longer_cap_only_extends_rows(rollouts):
    for cap in (1, CAP // 2):
        short = generate(requests(), max_completion_length=cap)
        for row in range(64):
            ids = rollouts.completion_ids(row)[:cap]
            assert short.completion_ids(row).tolist() == ids.tolist()
            np.testing.assert_allclose(short.logprobs[row, : len(ids)], rollouts.logprobs[row, : len(ids)], atol=1e-5)


def test_log_probabilities_and_entropies_are_those_of_a_distribution(rollouts):
    mask = rollouts.completion_mask
    assert (rollouts.logprobs[mask] < 0).all()
    assert ((rollouts.entropies[mask] > 0) & (rollouts.entropies[mask] <= np.log(CONFIG.vocab_size))).all()


@pytest.mark.parametrize(("slots", "chunk", "scan"), [(3, 3, True), (64, 7, False), (100, 32, True)])
def test_tokens_do_not_depend_on_slots_chunk_length_or_scanned_layers(rollouts, slots, chunk, scan):
    other = generate(requests(), slots=slots, chunk=chunk, scan=scan)
    assert by_id(other) == by_id(rollouts)
    mask = rollouts.completion_mask
    np.testing.assert_allclose(other.logprobs[mask], rollouts.logprobs[mask], atol=1e-5)
    assert other.stop_reasons == rollouts.stop_reasons


def test_tokens_do_not_depend_on_the_size_of_the_group(rollouts):
    everything = by_id(rollouts)
    part = by_id(generate(THREES))
    assert part == {uid: everything[uid] for uid in range(64) if uid % 8 < 3}


def test_tokens_do_not_depend_on_the_order_or_company_of_prompts(rollouts):
    everything, asked = by_id(rollouts), requests()
    assert by_id(generate(asked[::-1])) == everything
    for few in (asked[2:3], asked[5:], [asked[6], asked[0]]):
        part = by_id(generate(few))
        assert part == {uid: everything[uid] for uid in part}
        assert len(part) == 8 * len(few)


@pytest.mark.parametrize("mesh", [name for name in MESHES if name != "1"])
def test_tokens_do_not_depend_on_the_mesh(rollouts, mesh):
    other = generate(requests(), mesh)
    assert by_id(other) == by_id(rollouts)
    mask = rollouts.completion_mask
    np.testing.assert_allclose(other.logprobs[mask], rollouts.logprobs[mask], atol=1e-5)
    np.testing.assert_allclose(other.entropies[mask], rollouts.entropies[mask], atol=1e-5)


def test_the_same_identity_gives_the_same_numbers_to_the_last_bit(rollouts):
    again = generate(requests())
    mask = rollouts.completion_mask
    assert by_id(again) == by_id(rollouts)
    assert (again.logprobs[mask] == rollouts.logprobs[mask]).all()
    assert (again.entropies[mask] == rollouts.entropies[mask]).all()


def test_another_step_rollout_id_or_seed_gives_other_tokens(rollouts):
    moved = [Request(request.prompt_ids, 8, request.rollout_id + 64) for request in requests()]
    others = [generate(requests(), step=6), generate(moved), generate(requests(), seed=2**32 - 1)]
    for other in others:
        long = (rollouts.lengths >= 6) | (other.lengths >= 6)
        same = [np.array_equal(rollouts.completion_ids(r), other.completion_ids(r)) for r in np.flatnonzero(long)]
        assert len(same) > 30
        assert not any(same)


def test_no_two_rows_of_a_group_are_equal(rollouts):
    for index in range(8):
        rows = np.flatnonzero((rollouts.prompt_index == index) & (rollouts.lengths >= 6))
        completions = {tuple(rollouts.completion_ids(row).tolist()) for row in rows}
        assert len(completions) == len(rows)


def test_first_tokens_over_many_steps_are_as_frequent_as_reported():
    asked = [Request([5, 9, 33], 8, 8 * index) for index in range(8)]
    parts = [generate(asked, step=step, max_completion_length=1) for step in range(60)]
    drawn = np.concatenate([part.tokens[:, 0] for part in parts])
    told = np.concatenate([part.logprobs[:, 0] for part in parts])
    _, first, counts = np.unique(drawn, return_index=True, return_counts=True)
    expected = np.exp(told[first], dtype=np.float64) * len(drawn)
    often = expected > 5
    observed = [*counts[often], len(drawn) - counts[often].sum()]
    assert stats.chisquare(observed, [*expected[often], len(drawn) - expected[often].sum()]).pvalue > 1e-3


@pytest.mark.parametrize("length", [0, MAX_PROMPT + 1])
def test_an_empty_or_too_long_prompt_is_refused_with_numbers(length):
    asked = [*requests()[:2], Request([1] * length, 8, 16)]
    with pytest.raises(ExtraError, match=rf"16.*\b{length}\b.*\b{MAX_PROMPT}\b"):
        sampler("1").generate(None, asked, 0)


def test_groups_of_one_call_may_differ_in_size(rollouts):
    asked = [Request(request.prompt_ids, 1 + i, request.rollout_id) for i, request in enumerate(requests())]
    everything, part = by_id(rollouts), by_id(generate(asked))
    assert len(part) == sum(range(1, 9))
    assert part == {uid: everything[uid] for uid in part}


def test_no_requests_give_no_rollouts():
    assert len(generate([])) == 0


def test_no_program_is_compiled_after_warm_up():
    engine, random = sampler("1", slots=12, chunk=5), np.random.default_rng(0)

    def batch(seed: int) -> list[Request]:
        sizes, ids = random.integers(1, 9, 10), prompts()
        return [Request(ids[i % 8], int(n), 100 * i) for i, n in enumerate(sizes)]

    for step in range(10):
        engine.generate(rollout_weights(), batch(step), step)
    programs = engine.programs.compiled()
    for step in range(10, 30):
        engine.generate(rollout_weights(), batch(step), step)
    assert engine.programs.compiled() == programs


def test_a_soak_of_ten_thousand_requests_loses_and_duplicates_nothing():
    random, ids = np.random.default_rng(0), prompts()
    asked = [Request(ids[random.integers(8)], int(random.integers(1, 3)), 10 * i) for i in range(10_000)]
    told = []
    engine = sampler("1", slots=1024, chunk=10)
    result = engine.generate(rollout_weights(), asked, 5, finished=lambda row, tokens: told.append((row, len(tokens))))
    wanted = [request.rollout_id + i for request in asked for i in range(request.num_samples)]
    assert result.rollout_ids.tolist() == wanted
    assert (result.lengths >= 1).all()
    assert sorted(told) == list(enumerate(result.lengths))
    for row, request in enumerate(np.repeat(np.arange(len(asked)), [request.num_samples for request in asked])):
        assert result.prompt_ids[row].tolist() == list(asked[request].prompt_ids)
        last, reason = result.completion_ids(row)[-1], result.stop_reasons[row]
        assert (reason is StopReason.STOP_TOKEN) == (last in STOP_IDS)
        assert reason is StopReason.STOP_TOKEN or result.lengths[row] == CAP


def test_a_logit_that_is_not_finite_stops_with_rollout_and_position():
    broken = jax.tree.map(lambda leaf: leaf * np.nan, rollout_weights())
    with pytest.raises(ExtraError, match=r"rollout \d+ of step 5.*not finite"):
        sampler("1").generate(broken, requests(), 5)


def test_progress_ends_with_every_completion_finished():
    told = []
    sampler("1").generate(rollout_weights(), THREES, 5, lambda *state: told.append(state))
    assert told[-1] == (24, 0, 24)
    finished = [state[0] for state in told]
    assert finished == sorted(finished)
    assert all(0 <= done + flying <= total == 24 for done, flying, total in told)


def test_a_line_says_which_program_is_compiled_for_which_new_size(caplog):
    engine = sampler("1", slots=5, chunk=3, seed=17)  # no other test asks for this one

    def compiled():
        messages = (record.getMessage() for record in caplog.records)
        return [text for text in messages if not text.endswith("...")]  # which tell a person that it takes long

    with caplog.at_level("DEBUG", logger="extra_jax"):
        engine.generate(rollout_weights(), THREES, 5)
        lines = compiled()
        assert "compiling decode: 5 slots of 64 positions, 3 tokens a chunk" in lines, lines
        assert "compiling prefill: 4 contexts of 16 tokens" in lines, lines
        engine.generate(rollout_weights(), THREES, 5)
    assert len(compiled()) == len(lines) == len(set(lines))
