"""The prefix gain probe: four kinds of prefix for each waiting prompt, and what is made of their pass rates."""

from types import SimpleNamespace

import numpy as np
import pytest
from explore.steps import CHARACTERS, PROBLEMS, rollouts_with, run_info, waiting

from benchmarks.exploration.lab.gain import GainProbe, gain_metrics
from extra_jax.explore.prefix_state import PrefixState

RUN = run_info()


class Scripted:
    """Writes the answer where nothing is given, and nonsense behind a prefix."""

    def generate(self, weights, requests, step):
        self.requests = requests
        answers = {tuple(RUN.prompt_ids[uid]): problem.answer for uid, problem in PROBLEMS.items()}
        texts = ["?" if r.prefix_ids else answers[tuple(r.prompt_ids)] for r in requests for _ in range(r.num_samples)]
        return rollouts_with([CHARACTERS.encode(text) for text in texts], group=requests[0].num_samples)


def probe(queue: int, **settings: int) -> GainProbe:
    state = PrefixState(queue=[waiting(f"p{i}") for i in range(queue)])
    exploration = SimpleNamespace(state=lambda: {"policies": [state.save()]})

    def correct(problems, texts):
        return np.array([problem.answer == text for problem, text in zip(problems, texts, strict=True)])

    return GainProbe(RUN, exploration, Scripted(), correct, **settings)


def test_every_prompt_is_continued_from_four_kinds_of_prefix():
    measure = probe(5, every=2, prompts=3, samples=4)
    report = measure(None, 4)
    assert report["exploration/gain_prompts"] == 3
    assert report["exploration/gain_empty_rate"] == 1.0
    assert report["exploration/gain_chosen"] == report["exploration/gain_raw"] == -1.0
    assert report["exploration/gain_chosen_negative"] == 1.0
    requests = measure.sampler.requests
    assert [bool(request.prefix_ids) for request in requests] == [True, True, True, False] * 3
    assert [request.rollout_id for request in requests] == list(range(0, 48, 4)), "random numbers of their own"
    assert requests[0].prefix_ids == (0, 1, 2, 3)


def test_the_probe_is_silent_where_it_is_not_due_or_nothing_waits():
    assert probe(2, every=2, samples=2)(None, 3) == {}
    assert probe(2, every=2, samples=2)(None, 4) != {}
    assert probe(0, every=2, samples=2)(None, 4) == {}


def test_gains_are_paired_by_prompt():
    rates = np.array([[0.5, 0.25, 0.0, 0.25], [1.0, 0.5, 0.5, 0.5], [0.0, 0.0, 0.5, 0.25]])
    scores = np.array([[0.1, 0.2, 0.3, 0.0], [0.3, 0.2, 0.1, 0.0], [0.1, 0.2, 0.3, 0.0]])
    report = gain_metrics(rates, scores)
    assert report["exploration/gain_chosen"] == pytest.approx((0.25 + 0.5 - 0.25) / 3)
    assert report["exploration/gain_chosen_negative"] == pytest.approx(1 / 3)
    assert report["exploration/gain_informative_empty"] == 1.0
    assert report["exploration/gain_informative_chosen"] == pytest.approx(1 / 3)
    # rank correlations of score and rate: -1, ranks (3, 1.5, 1.5) with (3, 2, 1), ranks (1.5, 1.5, 3) with (1, 2, 3)
    half = np.corrcoef([3, 2, 1], [3, 1.5, 1.5])[0, 1]
    assert report["exploration/gain_score_spearman"] == pytest.approx((-1 + 2 * half) / 3)
