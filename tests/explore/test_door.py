"""The exploration door: what is chained, what is remembered, and what somebody else's transform may rely on."""

import inspect
import textwrap
from typing import Any

import numpy as np
import pytest

from explore.steps import PROBLEMS, Lived, asked, guided, step_with, waiting
from explore.test_explorer import SHORT, InOrder, Run
from extra_jax.data.problem import Problem
from extra_jax.doors import Registry, call_with
from extra_jax.errors import ExtraError
from extra_jax.exploration import PromptRequest
from extra_jax.explore import (
    PromptPolicy,
    PromptStep,
    Step,
    Transform,
    bonus,
    chain,
    door,
    novelty,
    prefixes,
    stateless,
)


def add(number: float) -> Transform:
    return stateless(lambda step, values, state: (values + number, state, {f"added_{number:g}": number}))


def times(number: float) -> Transform:
    return stateless(lambda step, values, state: (values * number, state, {}))


def counting() -> Transform:
    """Adds how often it was called before; its state is a tree, so it needs no ``save``."""

    def update(step: Step, values: np.ndarray, state: dict) -> tuple:
        return values + state["calls"], {"calls": state["calls"] + 1, "seen": state["seen"] + values}, {}

    def init(run: Any) -> dict:
        return {"calls": 0, "seen": np.zeros((run.prompts_per_step, run.group_size))}

    return Transform(init, update)


class Names:
    """A state that is no tree."""

    def __init__(self, names: set[str]):
        self.names = names


def familiar() -> Transform:
    """Adds 1 to problems that came before."""

    def update(step: Step, values: np.ndarray, state: Names) -> tuple:
        known = np.array([uid in state.names for uid in step.uids])[:, None]
        return values + known, Names(state.names | set(step.uids)), {}

    return Transform(
        lambda run: Names(set()), update, lambda state: sorted(state.names), lambda tree, run: Names(set(tree))
    )


STEP = step_with(np.ones((2, 2)))
ONES = np.ones((2, 2))


def test_a_chain_goes_from_left_to_right_and_joins_reports():
    both = Lived(chain(add(1), times(3)))
    assert (both(STEP, ONES) == 6).all()
    assert (Lived(chain(times(3), add(1)))(STEP, ONES) == 4).all()
    assert both.report == {"added_1": 1}
    assert (Lived(chain())(STEP, ONES) == ONES).all(), "nothing is the identity"


def test_chains_nest():
    nested, flat = Lived(chain(chain(add(1), counting()), times(2))), Lived(chain(add(1), counting(), times(2)))
    for index in range(3):
        step = step_with(np.ones((8, 4)), index=index)
        np.testing.assert_array_equal(nested(step, np.ones((8, 4))), flat(step, np.ones((8, 4))))


def test_every_element_has_a_state_of_its_own():
    twice = Lived(chain(counting(), counting()))
    step = step_with(np.ones((8, 4)))
    assert [twice(step, np.zeros((8, 4)))[0, 0] for _ in range(3)] == [0, 2, 4]
    assert [state["calls"] for state in twice.state] == [3, 3]
    assert twice.state[1]["seen"][0, 0] == 0 + 1 + 2


def test_a_chain_reads_what_its_elements_read():
    wanting = add(1)._replace(reads=("hidden",))
    assert chain(add(1)).reads == ()
    assert set(chain(novelty(), wanting, wanting).reads) == {"vectors", "hidden"}
    assert set(bonus(wanting).reads) == {"hidden"}


def test_a_state_of_any_kind_is_in_the_checkpoint():
    def run_anew() -> Run:
        return Run(familiar(), counting(), bonus(familiar(), times(0.5)))

    run = run_anew()
    for _ in range(6):  # from the sixth step on problems come back
        run.take()
    tree = run.explorer.state()
    assert tree["transform"][0] == tree["transform"][2][0] == sorted(PROBLEMS)
    again = run_anew()
    again.explorer.restore(tree)
    again.loader, again.step = InOrder(run.loader.position), run.step
    expected, found = run.take(), again.take()
    np.testing.assert_array_equal(found.advantages, expected.advantages)
    assert (expected.advantages != run_anew().take().advantages).any()


def test_inside_of_a_bonus_nothing_is_a_value_yet_and_nan_adds_nothing():
    half = stateless(lambda step, values, state: (np.where(step.correct, 0.5, np.nan), state, {}))
    step = step_with([[1, 0], [0, 1]], advantages=[[1.0, -1.0], [-1.0, 1.0]])
    assert Lived(bonus(half))(step, step.advantages).tolist() == [[1.5, -1.0], [-1.0, 1.5]]
    assert Lived(bonus(add(1)))(step, step.advantages).tolist() == step.advantages.tolist()


def test_bonuses_add_up():
    half = stateless(lambda step, values, state: (np.full(values.shape, 0.5), state, {}))
    both = Lived(chain(bonus(half), bonus(half, name="mine")))
    np.testing.assert_array_equal(both(STEP, ONES), ONES + 1.0)
    assert both.report["bonus"] == both.report["mine"] == [0.5] * 4
    assert both.report["mine_abs_mean"] == 0.5


def test_the_example_of_the_module_does_what_it_says():
    """``shorter``: among correct completions the shorter one gains what the longer one loses."""
    code = inspect.getdoc(door)
    begin = code.index("    def shorter")
    names = {"np": np, "Transform": Transform, "stateless": stateless}
    exec(textwrap.dedent(code[begin:]), names)
    step = step_with([[1, 1, 0]], texts=["a" * 10, "a" * 30, "a" * 20])
    shorter = Lived(names["shorter"](0.64))
    after = shorter(step, step.advantages) - step.advantages
    np.testing.assert_allclose(after, [[0.1, -0.1, 0.0]], atol=1e-12)
    assert shorter.report["shorter_mean"] == pytest.approx(0.0)


# ---- a step ----------------------------------------------------------------------------------------------------------


def test_a_step_knows_its_groups():
    step = step_with(
        [[1, 0], [1, 1], [0, 0]], valid=[[1, 1], [1, 1], [1, 0]], texts=["a", "bb", "ccc", "d", "e", "f"],
        truncated=[False] * 5 + [True], requests=[*asked("p1", "p2"), guided(waiting("p3"))],
    )  # fmt: skip
    assert step.uids == ["p1", "p2", "p3"]
    assert step.mixed.tolist() == [True, False, False]
    assert step.guided.tolist() == [False, False, True]
    assert step.lengths.tolist() == [[1, 2], [3, 1], [1, 1]]
    assert step.logprobs.tolist() == [[-1, -2], [-3, -1], [-1, -1]], "nats, summed"
    assert step.entropies.tolist() == [[0.5] * 2] * 3, "nats, mean"
    assert step.truncated.tolist() == [[False, False], [False, False], [False, True]]
    assert not step.valid[2, 1]
    assert step.rollout_ids.ravel().tolist() == list(range(6))
    assert step.gather(["x"] * 6) == ["x"] * 6


def test_a_layout_brings_completions_of_a_problem_together_and_back():
    step = step_with(np.ones((3, 2)), requests=asked("p1", "p2", "p1"))
    values = np.arange(6.0).reshape(3, 2)
    where = step.plain
    assert where.uids == ["p1", "p2"]
    assert where.spread(values).tolist() == [[0, 1, 4, 5], [2, 3, 0, 0]]
    assert where.present.tolist() == [[True] * 4, [True, True, False, False]]
    np.testing.assert_array_equal(where.collect(where.spread(values), 2), values)
    partly = step.by_problem(np.array([True, False, False]))
    np.testing.assert_array_equal(partly.collect(partly.spread(values), 2), [[0, 1], [np.nan] * 2, [np.nan] * 2])


def test_vectors_without_having_asked_for_them_are_refused():
    with pytest.raises(ExtraError, match=r"reads=\('vectors',\)"):
        _ = step_with([[1, 0]]).vectors


# ---- policies of prompts ---------------------------------------------------------------------------------------------


def skipping(uid: str) -> PromptPolicy:
    """Never asks one problem; counts how often it came by."""

    def prompts(draw: Any, state: dict, step: PromptStep) -> tuple:
        taken: list[PromptRequest] = []
        while len(taken) < step.count:
            more = draw(step.count - len(taken))
            state = {"skipped": state["skipped"] + sum(request.problem.uid == uid for request in more)}
            taken += [request for request in more if request.problem.uid != uid]
        return taken, state

    return PromptPolicy(lambda run: {"skipped": 0}, prompts, lambda step, state: (state, {"skipped": state["skipped"]}))


def test_policies_of_prompts_compose_from_the_inside_out():
    run, back = Run(skipping("p3"), prefixes(**SHORT)), 0
    for _ in range(11):
        run.take(solved=0.2)
        assert all(request.problem.uid != "p3" for request in run.requests)
        back += run.guided.sum()
    assert back > 0, "the outer one brings prompts back as it does alone"
    assert run.metrics["skipped"] >= 2, "the data went round twice"
    restored = Run(skipping("p3"), prefixes(**SHORT))
    restored.explorer.restore(run.explorer.state())
    assert restored.explorer.state()["policies"][0] == {"skipped": run.metrics["skipped"]}


def test_the_loader_is_asked_for_no_more_than_is_wanted():
    asked_for = []

    def draw(count: int) -> list[Problem]:
        asked_for.append(count)
        return [PROBLEMS[f"p{i}"] for i in range(count)]

    assert len(Run().explorer.prompts(draw, 0, 5)) == 5
    assert len(Run(prefixes(**SHORT)).explorer.prompts(draw, 0, 5)) == 5
    assert asked_for == [5, 5]


def test_a_policy_that_only_chooses_prompts_needs_nothing_else():
    policy = PromptPolicy(lambda run: {}, lambda draw, state, step: (draw(step.count)[::-1], state))
    run = Run(policy).take()
    assert [request.problem.uid for request in run.requests] == [f"p{i}" for i in range(7, -1, -1)]


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_name_can_be_taken_again_but_not_one_of_ours():
    names: Registry = Registry("bonus", "explore.bonus")
    names.register("mine")(add)
    names.register("mine")(subtract := lambda values: values - 1)  # a cell of a notebook that runs again
    assert names.get("mine") is subtract
    names.register("ours")(novelty)
    assert names.names == ["mine", "ours"]
    with pytest.raises(ExtraError, match="the name 'ours' is taken by the package; give yours another one"):
        names.register("ours")(add)
    assert names.get("ours") is novelty


def test_settings_reach_a_function_by_name():
    assert call_with(lambda a, b=2: (a, b), {"a": 1}, "x") == (1, 2)
    with pytest.raises(ExtraError, match=r"x.alpa: unknown setting; did you mean 'alpha'\?"):
        call_with(lambda alpha=1: alpha, {"alpa": 1}, "x")
    with pytest.raises(ExtraError, match="x: alpha is missing"):
        call_with(lambda alpha: alpha, {}, "x")
