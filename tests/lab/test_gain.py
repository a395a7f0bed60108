"""The prefix gain probe: four kinds of prefix for each waiting prompt, and what is made of their pass rates."""

import numpy as np
import pytest

from explore.test_explorer import GROUP, SMALL, TOKENIZER, Run
from extra_jax.explore.gain import GainProbe, gain_metrics
from extra_jax.reward.countdown import CountdownGrader
from extra_jax.rollout.types import Rollouts, StopReason


class Scripted:
    """Solves what comes without a prefix, fails behind one."""

    def __init__(self, run: Run):
        self.run, self.requests = run, []

    def generate(self, weights, requests, step) -> Rollouts:
        self.requests = requests
        solutions = {tuple(self.run.explorer.prompts[uid]): p.solution for uid, p in self.run.explorer.problems.items()}
        rows = []
        for request in requests:
            text = "1+1=2\n" if request.prefix_ids else solutions[tuple(request.prompt_ids)]
            rows += [TOKENIZER.encode_target(text)] * request.num_samples
        index = np.repeat(np.arange(len(requests)), requests[0].num_samples)
        lengths = np.array([len(row) for row in rows], np.int32)
        tokens = np.zeros((len(rows), lengths.max()), np.int32)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        zeros = np.zeros(tokens.shape, np.float32)
        prompts = [np.array(requests[i].prompt_ids) for i in index]
        prefixes = [np.array(requests[i].prefix_ids, np.int32) for i in index]
        stops = [StopReason.STOP_TOKEN] * len(rows)
        return Rollouts(
            np.arange(len(rows)), index, prompts, tokens, lengths, zeros, zeros, stops, prefixes, zeros, zeros
        )


def waiting_run(**probe: int) -> Run:
    run = Run({"arm": "P1", "prefix": SMALL["prefix"] | {"budget": "same_total"}, "probe": probe})
    for _ in range(3):
        run.take(solved=0.1)
    return run


def test_every_prompt_is_continued_from_four_kinds_of_prefix():
    run = waiting_run(gain_every=2, gain_prompts=3, gain_samples=4)
    sampler = Scripted(run)
    found = GainProbe(run.explorer, sampler, CountdownGrader())(None, 4)
    assert found["exploration/gain_prompts"] == 3
    assert found["exploration/gain_empty_rate"] == 1.0
    assert found["exploration/gain_chosen"] == found["exploration/gain_raw"] == -1.0
    assert found["exploration/gain_chosen_negative"] == 1.0
    assert len(sampler.requests) == 12
    assert [bool(request.prefix_ids) for request in sampler.requests] == [True, True, True, False] * 3
    ids = [request.rollout_id for request in sampler.requests]
    assert ids == list(range(0, 48, 4)), "every continuation has random numbers of its own"
    queued = {tuple(entry.prefix.tokens.tolist()) for entry in run.explorer.state.queue}
    assert {sampler.requests[i].prefix_ids for i in (0, 4, 8)} <= queued


def test_the_probe_is_silent_where_it_is_not_due_and_changes_nothing():
    run = waiting_run(gain_every=2, gain_samples=2)
    before = run.explorer.dumps().tobytes()
    probe = GainProbe(run.explorer, Scripted(run), CountdownGrader())
    assert probe(None, 3) == {}
    assert probe(None, 4) != {}
    assert run.explorer.dumps().tobytes() == before
    run.explorer.state.queue = []
    assert probe(None, 4) == {}
    assert GROUP == 4


def test_gains_are_paired_by_prompt():
    rates = np.array([[0.5, 0.25, 0.0, 0.25], [1.0, 0.5, 0.5, 0.5], [0.0, 0.0, 0.5, 0.25]])
    scores = np.array([[0.1, 0.2, 0.3, 0.0], [0.3, 0.2, 0.1, 0.0], [0.1, 0.2, 0.3, 0.0]])
    found = gain_metrics(rates, scores)
    assert found["exploration/gain_chosen"] == pytest.approx((0.25 + 0.5 - 0.25) / 3)
    assert found["exploration/gain_chosen_negative"] == pytest.approx(1 / 3)
    assert found["exploration/gain_informative_empty"] == 1.0
    assert found["exploration/gain_informative_chosen"] == pytest.approx(1 / 3)
    # rank correlations of score and rate: -1, ranks (3, 1.5, 1.5) with (3, 2, 1), ranks (1.5, 1.5, 3) with (1, 2, 3)
    half = np.corrcoef([3, 2, 1], [3, 1.5, 1.5])[0, 1]
    assert found["exploration/gain_score_spearman"] == pytest.approx((-1 + 2 * half) / 3)
