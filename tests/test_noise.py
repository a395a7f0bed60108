"""Whose noise returns, for how long, and what is kept of it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from extra_jax.config import config_from_dict
from extra_jax.data.problem import Problem
from extra_jax.dry_run_warnings import find_warnings
from extra_jax.errors import ExtraError
from extra_jax.exploration import PromptRequest
from extra_jax.noise import Noise, ProblemNoise
from extra_jax.rollout.store import Store, store_bytes
from extra_jax.rollout.types import Counters, Request

GROUP = 4
MIXED, WRONG = [True, False, True, False], [False] * GROUP


def noise(visits: int = 3, reuse: bool = True, **settings: Any) -> ProblemNoise:
    return ProblemNoise(visits, GROUP, reuse=reuse, trial=lambda *_: np.zeros(0), **settings)


def visit(of: ProblemNoise, uids: str, correct: dict[str, list[bool]] | None = None, rounds: int = 1) -> list[Request]:
    """A step of ``rounds`` draws that ask each problem of ``uids``; completions are unlike each other."""
    asked: list[Request] = []
    for _ in range(rounds):
        prompts = [PromptRequest(Problem(uid, uid, "1"), prefix_ids=(9,) * uid.isupper()) for uid in uids]
        wanted = of.requests(prompts, [Request((1,), GROUP, GROUP * i) for i in range(len(uids))], 0)
        asked += wanted
        right = np.array([(correct or {}).get(uid, MIXED) for uid in uids]).ravel()
        sampled = SimpleNamespace(
            requests=prompts,
            scores=SimpleNamespace(correct=right, valid=np.ones(len(right), bool)),
            rollouts=SimpleNamespace(
                prompt_index=np.repeat(np.arange(len(uids)), GROUP),
                completion_ids=lambda row: np.arange(row, 2 * row, dtype=np.int32),
                counters=Counters(tokens=10, kept_tokens=30, drafts=4, kept_whole=2),
            ),
        )
        of.observed(lambda *_, sampled=sampled: sampled)(None, 0, 0, len(uids))
    return asked


def test_noise_lasts_for_its_visits_and_no_longer():
    problems, seen = noise(), []
    for _ in range(7):
        seen.append(visit(problems, "a")[0].noise)
        problems.end_step()
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5] != seen[6]
    assert len(set(seen)) == 3


@pytest.mark.parametrize("outcome", [WRONG, [True] * GROUP])
def test_a_group_without_signal_gets_other_noise(outcome):
    problems = noise()
    first = visit(problems, "ab", {"a": outcome})
    problems.end_step()
    second = visit(problems, "ab")
    assert first[0].noise != second[0].noise
    assert first[1].noise == second[1].noise
    assert [len(request.drafts) for request in second] == [0, GROUP]
    assert [draft.tolist() for draft in second[1].drafts] == [list(range(row, 2 * row)) for row in range(4, 8)]


def test_a_problem_that_comes_twice_in_a_step_gets_further_samples():
    problems = noise()
    first = visit(problems, "aab", rounds=2)
    assert [request.noise[1] for request in first] == [0, 4, 0, 8, 12, 4]
    assert len({request.noise for request in first}) == 6
    problems.end_step()
    assert [r.noise for r in visit(problems, "aab", rounds=2)] == [r.noise for r in first], "one visit is one step"


def test_a_given_prefix_has_noise_of_its_own():
    problems = noise()
    plain, guided = noise(), noise()
    assert visit(plain, "a")[0].noise != visit(guided, "A")[0].noise
    assert visit(problems, "A")[0].noise == visit(noise(), "A")[0].noise


def test_nothing_counts_before_the_end_of_the_step():
    problems = noise()
    visit(problems, "a")
    before = problems.state()
    assert before["uids"] == []
    assert len(before["store"]["tokens"]) == 0


def test_a_restored_run_asks_the_same_and_keeps_the_same():
    problems = noise()
    for _ in range(2):
        visit(problems, "abA", {"b": WRONG})
        metrics = problems.end_step()
    assert metrics["noise/kept"] == pytest.approx(2 / 3)
    assert metrics["reuse/kept_tokens"] == 0.75
    other = noise()
    other.restore(problems.state())
    np.testing.assert_equal(other.state(), problems.state())
    for ours, theirs in zip(visit(problems, "abA"), visit(other, "abA"), strict=True):
        assert ours.noise == theirs.noise
        assert [draft.tolist() for draft in ours.drafts] == [draft.tolist() for draft in theirs.drafts]


def test_reuse_may_be_switched_on_and_off_between_restarts():
    on, off = noise(), noise(reuse=False)
    visit(on, "a")
    on.end_step()
    off.restore(on.state())
    assert visit(off, "a")[0].noise == visit(on, "a")[0].noise
    again = noise()
    off.end_step()
    again.restore(off.state())
    assert visit(again, "a")[0].drafts == []


def test_a_checkpoint_without_noise_is_refused():
    with pytest.raises(ExtraError, match=r"rollout\.noise=problem"):
        noise().restore(None)
    Noise().restore(None)


def test_the_store_never_holds_more_than_its_bytes_and_throws_out_the_oldest():
    store, random = Store(20_000), np.random.default_rng(0)
    last: dict[tuple[int, int], int] = {}
    for age in range(300):
        key = (int(random.integers(0, 40)), 0)
        store.put(key, [random.integers(0, 9, random.integers(1, 60)) for _ in range(8)])
        last[key] = age
        held = [other for other in last if store.get(other)]
        assert store.size <= store.limit
        assert store.size == sum(512 + 4 * sum(map(len, store.get(other))) for other in held)
        assert key in held
        assert max((last[k] for k in last if k not in held), default=-1) < min(last[k] for k in held)
    copy = Store(20_000)
    copy.restore(store.state())
    np.testing.assert_equal(copy.state(), store.state())
    assert copy.size == store.size


def test_a_group_that_is_larger_than_the_store_is_not_kept():
    store = Store(1000)
    store.put((1, 0), [np.zeros(500, np.int32)])
    assert store.get((1, 0)) == []
    assert store.size == 0
    copy = Store(1000)
    copy.restore(store.state())
    assert copy.size == 0


def test_the_bytes_of_a_store_are_known_up_front():
    store = Store(10**6)
    for group in range(3):
        store.put((group, 0), [np.zeros(50, np.int32)] * 8)
    assert store.size == store_bytes(3, 8, 50)


def test_the_dry_run_says_that_no_noise_returns_or_that_the_store_is_small():
    def warnings(problems: int, **rollout: Any) -> str:
        raw = {"model": {"preset": "tiny"}, "rollout": {"noise": "problem", "reuse": "verified"} | rollout}
        config = config_from_dict(raw | {"train": {"max_steps": 100, "prompts_per_step": 64}})
        return "\n".join(find_warnings(config, "train", [Problem(f"{i}", f"{i}", "1") for i in range(problems)]))

    assert "noise" not in warnings(500, max_completion_length=64)
    assert "100 steps see 4,000 problems less than twice" in warnings(4000, max_completion_length=64)
    assert "would take 3.1 GiB, the store has 1;" in warnings(3200, max_completion_length=32_000)
    assert "GiB" not in warnings(3200, max_completion_length=32_000, reuse="off")


def test_reuse_without_returning_noise_is_refused():
    with pytest.raises(ExtraError, match=r"rollout.*reuse=verified.*noise=problem"):
        config_from_dict({"model": {"preset": "tiny"}, "rollout": {"reuse": "verified"}})
