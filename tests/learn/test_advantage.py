"""``train.advantage``: how an estimator is found, what it is given, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from extra_jax.config import Config, config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.learn import advantage as door
from extra_jax.learn import estimators
from extra_jax.learn.advantage import make_advantage
from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Grade, Verdict
from learn.steps import GROUP, PROMPTS, ROWS, frozen_rollouts

EXAMPLE = Path(__file__).parents[2] / "docs/examples/own_advantage.py"
ROLLOUTS = frozen_rollouts()


def config(advantage: object = "grpo", **train: object) -> Config:
    sizes = {"prompts_per_step": PROMPTS, "num_generations": GROUP}
    return config_from_dict({"model": {"preset": "tiny"}, "train": sizes | {"advantage": advantage} | train})


def scores() -> Scores:
    random = np.random.default_rng(1)
    correct = random.random(ROWS) < 0.4
    valid = random.random(ROWS) < 0.8
    grades = [Grade(Verdict.CORRECT, None if row % 5 == 0 else f"{row % 3}", "math/2") for row in range(ROWS)]
    return Scores(correct + 0.25, valid, correct & valid, grades)


def table(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).reshape(PROMPTS, GROUP)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_the_default_is_grpo_with_the_scale_of_trl(scale):
    step = scores()
    expected = estimators.grpo(table(step.rewards), table(step.valid), scale).ravel()
    np.testing.assert_array_equal(make_advantage(config(scale_rewards=scale))(step, ROLLOUTS), expected)
    assert config().train.advantage.function == "grpo"


@pytest.mark.parametrize("name", door.ESTIMATORS.names)
def test_every_shipped_name_gives_finite_advantages_and_zero_where_not_valid(name):
    step = scores()
    result = make_advantage(config(name))(step, ROLLOUTS)
    assert result.shape == (ROWS,)
    assert result[step.valid].any()
    assert not result[~step.valid].any()


def test_an_estimator_gets_what_it_names_and_its_settings():
    seen = {}

    def curious(rewards, valid, lengths, answers, *, correct, logprobs, strength, other=2):
        seen.update(locals())
        return np.where(valid, strength * correct, 0.0)

    step = scores()
    made = make_advantage(config({"function": "unused", "args": {"strength": 3}}), curious)(step, ROLLOUTS)
    np.testing.assert_array_equal(made, 3.0 * step.correct)
    np.testing.assert_array_equal(np.isnan(seen["rewards"]), ~table(step.valid))
    np.testing.assert_array_equal(seen["rewards"][seen["valid"]], step.rewards[step.valid])
    np.testing.assert_array_equal(seen["correct"], table(step.correct))
    np.testing.assert_array_equal(seen["lengths"], table(ROLLOUTS.lengths))
    sums = [float(np.sum(ROLLOUTS.logprobs[row, :n].astype(np.float64))) for row, n in enumerate(ROLLOUTS.lengths)]
    np.testing.assert_allclose(seen["logprobs"], table(sums), rtol=1e-12)
    assert seen["answers"].ravel().tolist() == [grade.answer or "" for grade in step.grades]
    assert (seen["strength"], seen["other"]) == (3, 2)


def test_the_example_is_chosen_by_its_file_and_shares_the_reward_of_equal_answers():
    rewards, valid = np.array([[1.0, 1.0, 1.0, 0.0]]), np.ones((1, 4), bool)
    function = door.ESTIMATORS.get(f"{EXAMPLE}:shared_answers")
    result = function(rewards, valid, rewards > 0, np.array([["a", "a", "b", "a"]], object))
    np.testing.assert_array_equal(result, estimators.grpo(np.array([[0.5, 0.5, 1.0, 0.0]]), valid))
    step = scores()
    choice = {"function": f"{EXAMPLE}:shared_answers", "args": {"strength": 0}}
    np.testing.assert_array_equal(
        make_advantage(config(choice))(step, ROLLOUTS), make_advantage(config())(step, ROLLOUTS)
    )
    assert not np.array_equal(
        make_advantage(config(f"{EXAMPLE}:shared_answers"))(step, ROLLOUTS), make_advantage(config())(step, ROLLOUTS)
    )
    assert len(EXAMPLE.read_text().splitlines()) <= 40


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            "max_rl",
            r"no advantage estimator is called 'max_rl'; did you mean 'maxrl'\? There are dr_grpo, grpo, ",
        ),
        ("nowhere.py:f", r"train.advantage: there is no file .*nowhere.py"),
        (f"{EXAMPLE}:shared_answer", "has no 'shared_answer'; did you mean 'shared_answers'"),
        ({"function": "pass_at_k", "args": {"K": 8}}, "args of pass_at_k.K: unknown setting; it takes k, epsilon"),
        ({"function": "ucpo", "args": {"correct": 1}}, "args of ucpo.correct: unknown setting"),
        ({"function": "rloo", "args": {"epsilon": 1}}, "args of rloo.epsilon: unknown setting; it takes none"),
        ({"function": "ucpo", "args": {"tua": 1}}, "did you mean 'tau'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(choice, message):
    with pytest.raises(ExtraError, match=message):
        make_advantage(config(choice))


def test_a_scale_that_an_estimator_does_not_ask_for_is_refused():
    with pytest.raises(ExtraError, match=r"train.scale_rewards=none has no effect on train.advantage=maxrl"):
        make_advantage(config("maxrl", scale_rewards="none"))


def test_a_parameter_that_nobody_supplies_is_named():
    def own(rewards, valid, entropies):
        return rewards

    with pytest.raises(ExtraError, match=r"own needs entropies; .* also ask for correct, logprobs, lengths, answers"):
        make_advantage(config(), own)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda rewards, valid: rewards[0], r"returned the shape \(6,\) for 4 prompts of 6 completions"),
        (lambda rewards, valid: rewards - rewards.mean(), "gave nan to completion .* NaN; keep it out of sums"),
        (lambda rewards, valid: np.ones(valid.shape), r"gave 1.0 to completion \d of prompt \d, which is not valid"),
        (lambda rewards, valid: np.full(valid.shape, np.inf), "gave inf to completion 0 of prompt 0"),
    ],
)
def test_a_result_that_is_no_advantage_names_the_estimator(function, message):
    function.__name__ = "mine"
    with pytest.raises(ExtraError, match=f"train.advantage: mine {message}"):
        make_advantage(config(), function)(scores(), ROLLOUTS)


def test_the_decorator_gives_an_estimator_a_name_but_not_one_of_ours(monkeypatch):
    monkeypatch.setattr(door.ESTIMATORS, "_entries", dict(door.ESTIMATORS._entries))

    @door.advantage
    def halves(rewards, valid):
        return np.where(valid, 0.5, 0.0)

    step = scores()
    np.testing.assert_array_equal(make_advantage(config("halves"))(step, ROLLOUTS), 0.5 * step.valid)

    def grpo(rewards, valid):
        return halves(rewards, valid)

    with pytest.raises(ExtraError, match="the name 'grpo' is taken"):
        door.advantage(grpo)


def test_each_process_gets_the_rows_that_are_its_own(monkeypatch):
    """The second of two processes, with the first one's rows in front; ``batch`` looks at all of them."""
    step = scores()
    half = slice(ROWS // 2, ROWS)
    local = Scores(step.rewards[half], step.valid[half], step.correct[half], step.grades[half])
    whole = {"float64": step.rewards, "bool": step.valid}
    monkeypatch.setattr(door, "allgather_rows", lambda x: whole[x.dtype.name])
    monkeypatch.setattr(door, "allgather", lambda x: np.concatenate([x, x]))
    monkeypatch.setattr(door.jax, "process_index", lambda: 1)
    result = make_advantage(config(scale_rewards="batch"))(local, ROLLOUTS.take(np.arange(ROWS)[half]))
    expected = estimators.grpo(table(step.rewards), table(step.valid), "batch").ravel()[half]
    np.testing.assert_array_equal(result, expected)
