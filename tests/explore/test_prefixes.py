"""Prompts that come back with a prefix: the right ground truth, no problem lost, room, memory, and what steers them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explore.steps import CHARACTERS, PROBLEMS, asked, guided, prefix, run_info, step_with, waiting
from extra_jax.errors import ExtraError
from extra_jax.exploration import PromptRequest
from extra_jax.explore import PromptStep, Step, prefixes
from extra_jax.explore.attempts import Choosing
from extra_jax.explore.encoders import EncoderSettings
from extra_jax.explore.prefix_settings import PrefixSettings
from extra_jax.explore.prefix_state import GUIDED_MARK, Guided, PrefixState
from extra_jax.explore.prefixes import Offer, enqueue, memory_key, next_prompts, observe, take

RAW = {"smoothing": "none"}
SHORT = {"min_tokens": 2, "min_gap": 2, "warmup_steps": 0, "guided_fraction": 0.25, "smoothing": "prefix_overlap"}
RUN = run_info()


def in_order() -> Callable[[int], list[PromptRequest]]:
    """A loader that goes round the problems."""
    position = 0

    def draw(count: int) -> list[PromptRequest]:
        nonlocal position
        position += count
        return asked(*(f"p{i % 40}" for i in range(position - count, position)))

    return draw


def chosen(state: PrefixState, draw: Callable, *, step: int = 1, seed: int = 0, **changes: Any) -> list[PromptRequest]:
    at = PromptStep(step, 8, replace(RUN, seed=seed))
    requests, _ = next_prompts(draw, state, at, PrefixSettings(**{"guided_fraction": 0.25} | changes))
    return requests


# ---- before a step ---------------------------------------------------------------------------------------------------


def test_the_ground_truth_follows_a_guided_prompt():
    state = PrefixState(queue=[waiting("p30"), waiting("p31")])
    requests = chosen(state, in_order())
    back = [request for request in requests if request.lineage]
    assert {request.problem.uid for request in back} == {"p30", "p31"}
    for request in back:
        assert request.problem == PROBLEMS[request.lineage.uid]
        assert request.prefix_ids == (0, 1, 2, 3)
        assert not request.prefix_in_prompt
    assert state.queue == []
    assert len(requests) == 8


def test_with_a_full_budget_the_prefix_is_the_end_of_the_prompt():
    state = PrefixState(queue=[waiting("p30")])
    (back,) = [request for request in chosen(state, in_order(), budget="full") if request.lineage]
    assert back.prefix_in_prompt


def test_a_ground_truth_that_changed_since_stops_the_run():
    state = PrefixState(queue=[Guided("p30", "another answer", prefix(), 0.5, 0)])
    with pytest.raises(ExtraError, match=r"'p30' has the answer 'answer 30', its prefix was made for 'another answer'"):
        chosen(state, in_order())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_displaced_prompts_return_so_that_the_order_of_the_data_stays_whole(guided_per_step, seed):
    state, draw, seen = PrefixState(), in_order(), []
    for step, count in enumerate(guided_per_step, start=1):
        state.queue = [waiting(f"p{30 + i}", born=step - 1) for i in range(count)]
        requests = chosen(state, draw, step=step, seed=seed, guided_fraction=0.5)
        assert len(requests) == 8
        assert sum(request.lineage is not None for request in requests) == count
        seen += [request.problem.uid for request in requests if request.lineage is None]
        assert len(state.pending) < 16
    everything = seen + state.pending
    assert sorted(everything) == sorted(f"p{i % 40}" for i in range(len(everything))), "every problem is asked once"


def test_the_release_loses_displaced_prompts_and_fills_the_last_rows():
    draw = in_order()
    state = PrefixState(queue=[waiting("p30"), waiting("p31"), waiting("p32")])
    first = chosen(state, draw, as_released=True)
    assert [request.problem.uid for request in first] == [*(f"p{i}" for i in range(6)), "p30", "p31"]
    assert state.pending == []
    second = chosen(state, draw, step=2, as_released=True)
    assert [request.problem.uid for request in second] == [*(f"p{i}" for i in range(8, 15)), "p32"]


def test_entries_expire_and_first_in_first_out_takes_the_oldest():
    state = PrefixState(queue=[waiting("p1", 0), waiting("p2", 1), waiting("p3", 7)])
    rules = PrefixSettings(as_released=True, queue_max_age=8)
    assert [entry.uid for entry in take(state, rules, 1, PromptStep(9, 8, RUN))] == ["p2"]
    assert [entry.uid for entry in state.queue] == ["p3"]
    assert (state.records["p2"].waiting, state.records["p2"].injected) == ("drawn", 1)


def test_a_random_draw_does_not_depend_on_the_order_of_the_queue():
    entries, rules = [waiting(f"p{i}") for i in range(20)], PrefixSettings(queue_max_age=None)

    def drawn(queue: list[Guided], step: int) -> set[str]:
        return {entry.uid for entry in take(PrefixState(queue=list(queue)), rules, 5, PromptStep(step, 8, RUN))}

    assert drawn(entries, 1) == drawn(entries[::-1], 1)
    counts = np.zeros(20)
    for step in range(300):
        counts[[int(uid[1:]) for uid in drawn(entries, step)]] += 1
    assert (np.abs(counts - 75) < 5 * np.sqrt(75 * 0.75)).all(), "everybody is drawn equally often"


# ---- from offers to the queue ----------------------------------------------------------------------------------------


def offer(index: int, *scores: float, step: int = 0, depth: int = 1) -> Offer:
    made = [prefix(i + 1, score=s, rollout_id=index, step=step, depth=depth) for i, s in enumerate(scores)]
    return Offer(index, made)


def queued(offers: list[Offer], *, state: PrefixState | None = None, step: int = 0, **changes: Any) -> PrefixState:
    state = state or PrefixState()
    seen = step_with(np.zeros((8, 4)), index=step)
    enqueue(seen, state, PrefixSettings(**RAW | changes), dict.fromkeys(range(8), "hard"), offers)
    return state


def test_the_chosen_prefix_is_queued_with_its_ground_truth():
    state = queued([offer(0, 0.9, 0.2, 0.5)])
    entry = state.queue[0]
    assert (entry.uid, entry.answer, len(entry.prefix.tokens), entry.score) == ("p0", "answer 0", 2, 0.2)
    assert state.records["p0"].waiting == "eligible"


def test_one_entry_a_prompt_or_as_released_every_one_of_them():
    for released, expected in ((False, [1]), (True, [0, 1])):
        state = queued([offer(0, 0.5)], as_released=released)
        queued([offer(0, 0.1, step=1)], state=state, step=1, as_released=released)
        assert [entry.born for entry in state.queue] == expected


def test_queue_and_memory_are_bounded():
    state = queued([offer(i, 0.5, 0.4, 0.3) for i in range(5)], queue_capacity=3, memory_capacity=2)
    assert [entry.uid for entry in state.queue] == ["p2", "p3", "p4"], "the oldest leave"
    assert all(len(state.records[f"p{i}"].prefixes) == 2 for i in range(5))
    assert [len(entry.prefix.tokens) for entry in state.queue] == [3, 3, 3], "chosen among those remembered"


def test_old_prefixes_are_forgotten():
    state = queued([offer(0, 0.5)], memory_max_age=5)
    queued([offer(1, 0.5, step=4)], state=state, step=4, memory_max_age=5)
    assert len(state.records["p0"].prefixes) == 1
    queued([offer(1, 0.5, step=5)], state=state, step=5, memory_max_age=5)
    assert state.records["p0"].prefixes == []


def test_depth_is_limited():
    assert queued([offer(0, 0.5, depth=2)]).queue == []
    assert len(queued([offer(0, 0.5, depth=2)], max_depth=None).queue) == 1


def test_a_chooser_of_ones_own_sees_the_pool_and_what_others_offered_and_may_take_nothing():
    seen: list[Choosing] = []

    def choose(among: Choosing) -> tuple:
        seen.append(among)
        return (None, 0.0) if among.uid == "p1" else (among.others[0], 7.0)

    state = queued([offer(0, 0.9, 0.2), offer(1, 0.6)], choose=choose)
    assert [(entry.uid, entry.prefix.rollout_id, entry.score) for entry in state.queue] == [("p0", 1, 7.0)]
    assert [len(among.pool) for among in seen] == [2, 1]
    assert state.positions.sum() == 2, "where the lowest score lies is counted, whatever was chosen"


def test_without_a_depth_limit_a_guided_prompt_has_a_memory_of_its_own_that_is_forgotten_in_the_end():
    state = PrefixState()
    for i in range(1500):
        state.record(memory_key(guided(waiting("p1", tokens=i + 1)), None))
    state.record("p1")
    assert sum(GUIDED_MARK in key for key in state.records) == 1024
    assert "p1" in state.records
    assert memory_key(guided(waiting("p1")), 1) == "p1", "with a limit: with its root"


# ---- which prompts come back -----------------------------------------------------------------------------------------


def kind(correct: int, *, unknown: int = 0, long: int = 0, entry: Guided | None = None, **changes: Any) -> str | None:
    """What becomes of a prompt with so many completions that are correct, not graded, and cut at the cap, of 8."""
    row = np.arange(8)
    step = step_with(
        [row < correct],
        valid=(row < correct) | (row >= correct + unknown),
        truncated=row >= 8 - long,
        texts=["ab\n" * 8] * 8,
        requests=[guided(entry)] if entry else None,
    )
    _, report = observe(step, PrefixState(), PrefixSettings(**SHORT | changes))
    hard, easy = report["hard_prompt_count"], report["easy_prompt_count"]
    assert hard + easy <= 1
    return "hard" if hard else "easy" if easy else None


@pytest.mark.parametrize(
    ("changes", "correct", "unknown", "long", "expected"),
    [
        ({}, 1, 0, 0, "hard"),
        ({}, 2, 0, 0, None),
        ({"hard_max_correct": 0}, 0, 0, 0, "hard"),
        ({"hard_max_correct": 0}, 1, 0, 0, None),
        ({}, 1, 1, 0, None),  # what could not be graded may have been correct
        ({}, 0, 0, 4, None),  # half of the group ran out of room
        ({}, 0, 0, 3, "hard"),
        ({"max_truncated": None}, 0, 0, 8, "hard"),
        ({}, 8, 0, 0, None),
        ({"failures": True}, 8, 0, 0, "easy"),
        ({"failures": True}, 7, 0, 0, "easy"),
        ({"failures": True}, 6, 0, 0, None),
        ({"failures": True}, 7, 1, 0, None),
        ({"failures": True}, 1, 0, 0, "hard"),
    ],
)
def test_hard_and_easy_prompts(changes, correct, unknown, long, expected):
    assert kind(correct, unknown=unknown, long=long, **changes) == expected


def test_a_guided_prompt_comes_back_only_within_the_depth_limit_and_never_as_an_easy_one():
    assert kind(0, entry=waiting("p0")) is None
    assert kind(0, entry=waiting("p0"), max_depth=2) == "hard"
    assert kind(0, entry=waiting("p0", depth=2), max_depth=None) == "hard"
    assert kind(8, entry=waiting("p0"), max_depth=None, failures=True) is None


# ---- whole visits: written attempts in, entries out ------------------------------------------------------------------

GOOD, BAD = "so\ngood\nway\nto do it well\n", "an\nodd\nbad\nway to do it\n"


def visit(state: PrefixState, correct: list[int], step: int, *, uid: str = "p0", **changes: Any) -> Step:
    """One prompt with four attempts: ``GOOD`` where they are correct, else ``BAD``."""
    texts = [f"{step}{(GOOD if right else BAD)}" for right in correct]
    seen = step_with([correct], texts=texts, index=step, requests=asked(uid))
    observe(seen, state, PrefixSettings(**SHORT | changes))
    return seen


def texts_queued(state: PrefixState) -> list[str]:
    return [CHARACTERS.decode(entry.prefix.tokens) for entry in state.queue]


def test_a_hard_prompt_comes_back_with_the_beginning_of_its_own_attempt():
    state = PrefixState()
    visit(state, [0, 0, 0, 0], 0)
    (entry,) = state.queue
    assert f"0{BAD}".startswith(texts_queued(state)[0])
    assert texts_queued(state)[0].endswith("\n")
    assert entry.prefix.fraction == len(entry.prefix.tokens) / len(f"0{BAD}") <= 0.7
    assert (entry.prefix.depth, entry.prefix.correct, entry.born, entry.kind) == (1, False, 0, "hard")


def test_before_the_end_of_the_warmup_nothing_is_queued():
    state = PrefixState()
    for step, expected in ((0, 0), (8, 0), (9, 0), (10, 1)):
        visit(state, [0, 0, 0, 0], step, warmup_steps=None)  # a tenth of 100 steps
        assert len(state.queue) == expected, step


def test_a_prefix_leaves_room_for_its_continuation():
    lines = "a\n" * 40
    for budget, room in (("same_total", 63), ("full", 64 - len("question 0"))):
        state, rules = PrefixState(), SHORT | {"budget": budget, "max_fraction": None, "max_cuts": 100}
        observe(step_with(np.zeros((1, 4)), texts=[lines] * 4), state, PrefixSettings(**rules))
        assert max(len(p.tokens) for p in state.records["p0"].prefixes) == room // 2 * 2


def test_no_cut_behind_the_answer():
    state, text = PrefixState(), "first\nsecond\n\\boxed{4}\nthird\nfourth\n"
    observe(step_with(np.zeros((1, 4)), texts=[text] * 4), state, PrefixSettings(**SHORT | {"max_fraction": None}))
    cut = [CHARACTERS.decode(p.tokens) for p in state.records["p0"].prefixes]
    assert cut == ["first\n", "first\nsecond\n"]


def test_a_prefix_of_a_prefix_begins_with_it():
    state, entry = PrefixState(), waiting("p0")
    entry = replace(entry, prefix=replace(entry.prefix, tokens=np.array(CHARACTERS.encode("root\n"), np.int32)))
    step = step_with(np.zeros((1, 4)), texts=["next\nline\nand so on\n"] * 4, requests=[guided(entry)])
    observe(step, state, PrefixSettings(**SHORT | {"max_depth": 2}))
    assert all(CHARACTERS.decode(p.tokens).startswith("root\nnext\n") for p in state.records["p0"].prefixes)
    assert {p.depth for p in state.records["p0"].prefixes} == {2}
    step = step_with(np.zeros((1, 4)), texts=["a\n" * 40] * 4, requests=[guided(entry)])
    observe(step, state, PrefixSettings(**SHORT | {"max_depth": 2, "max_fraction": None, "max_cuts": 100}))
    assert max(len(p.tokens) for p in state.records["p0"].prefixes) == 63, "both together leave room for a token"


def test_the_encoder_sees_what_was_written_behind_the_prefix():
    run, state = run_info(group_size=4, encoder=EncoderSettings(name="hashed_ngram", size=16)), PrefixState()
    rules = PrefixSettings(**SHORT | {"smoothing": "embedding"})
    observe(step_with(np.zeros((1, 4)), texts=[BAD] * 4, run=run), state, rules)
    remembered = state.records["p0"].prefixes
    assert all(np.linalg.norm(p.vector) == pytest.approx(1.0, abs=1e-6) for p in remembered)
    assert state.queue[0].prefix.vector is None, "a queue needs none"
    behind = step_with(np.zeros((1, 4)), texts=[BAD] * 4, run=run, requests=[guided(waiting("p0"))])
    observe(behind, state, PrefixSettings(**dict(rules) | {"max_depth": 2}))
    deeper = [p for p in state.records["p0"].prefixes if p.depth == 2]
    for one, other in zip(remembered, deeper, strict=True):
        assert len(other.tokens) == len(one.tokens) + 4
        np.testing.assert_array_equal(one.vector, other.vector)
    with pytest.raises(ExtraError, match="smoothing=prefix_overlap"):
        observe(step_with(np.zeros((1, 4)), texts=[BAD] * 4), PrefixState(), rules)


def test_success_prefixes_are_of_a_correct_attempt_of_this_visit_or_of_an_earlier_one():
    state = PrefixState()
    visit(state, [0, 0, 0, 0], 0, source="correct")
    assert state.queue == [], "nobody has solved it yet: there is nothing to come back with"
    visit(state, [1, 0, 1, 0], 1, source="correct")
    assert state.queue == [], "half of the attempts pass: it need not come back"
    visit(state, [0, 0, 0, 0], 2, source="correct")
    assert f"1{GOOD}".startswith(texts_queued(state)[0]), "the attempt of step 1"
    assert state.queue[0].prefix.correct
    visit(state, [0, 1, 0, 0], 3, source="correct", choose="lowest_entropy", memory_max_age=1)
    assert f"3{GOOD}".startswith(texts_queued(state)[0]), "of this visit; the other is forgotten"
    assert state.queue[0].kind == "hard"


def test_failure_prefixes_are_of_a_wrong_attempt_of_a_prompt_that_passes():
    state = PrefixState()
    visit(state, [1, 1, 1, 1], 0, failures=True)
    assert state.queue == [], "it has never failed"
    visit(state, [1, 1, 1, 0], 1, failures=True)
    assert f"1{BAD}".startswith(texts_queued(state)[0])
    assert (state.queue[0].kind, state.queue[0].prefix.correct) == ("easy", False)
    visit(state, [1, 1, 1, 1], 2, failures=True)
    assert f"1{BAD}".startswith(texts_queued(state)[0]), "of an earlier visit"
    visit(state, [1, 1, 1, 0], 3, uid="p5")
    assert [entry.uid for entry in state.queue] == ["p0"], "switched off, no easy prompt comes back"


def test_a_failure_prefix_is_never_of_a_correct_attempt():
    pools = []

    def choose(among: Choosing) -> tuple:
        pools.append({p.correct for p in among.pool})
        return among.pool[0], 0.0

    state = PrefixState()
    for step, correct in enumerate([[1, 0, 0, 0], [1, 1, 1, 1]]):
        visit(state, correct, step, failures=True, choose=choose)
    assert pools == [{True, False}, {False}], "of the hard visit both are remembered, for the easy one only wrong ones"


def test_failures_leave_hard_prompts_as_they_are():
    """An all-wrong prompt comes back with a wrong attempt, unless only correct ones are asked for."""
    for source, expected in (("prefer_correct", 1), ("lowest_entropy", 1), ("correct", 0)):
        state = PrefixState()
        visit(state, [0, 0, 0, 0], 0, failures=True, source=source)
        assert len(state.queue) == expected, source
    remembered = state.records["p0"].prefixes
    assert len({len(p.tokens) for p in remembered}) == len(remembered), "an attempt is cut once"


# ---- the length controller -------------------------------------------------------------------------------------------


def lines(right: bool, number: int) -> str:
    return "".join(f"{'gb'[not right]}{number % 10}\n" for _ in range(20))


def simulated(
    target: float, chance: Callable[[float], float], easy: bool, steps: int = 150
) -> tuple[list[tuple[int, float]], PrefixState]:
    """Pass rates of guided groups, where a guided attempt passes with ``chance(fraction)``.

    Every plain prompt has one attempt that came out the other way, so that there always is something to cut.
    """
    rules = PrefixSettings(
        source="prefer_correct" if easy else "correct", failures=easy, target_pass_rate=target, min_tokens=1, min_gap=3,
        max_cuts=20, max_fraction=1.0, warmup_steps=0, guided_fraction=0.5,
    )  # fmt: skip
    run, rng = run_info(group_size=8, max_completion_length=200), np.random.default_rng(0)
    state, draw, rates = PrefixState(), in_order(), []
    for index in range(steps):
        requests, state = next_prompts(draw, state, PromptStep(index, 8, run), rules)
        correct = np.zeros((8, 8), bool)
        for row, request in enumerate(requests):
            if request.lineage:
                correct[row] = rng.random(8) < chance(request.lineage.prefix.fraction)
                rates.append((index, correct[row].mean()))
            else:
                correct[row] = [(place == 0) != easy for place in range(8)]
        texts = [lines(bool(right), place) for place, right in enumerate(correct.ravel())]
        state, _ = observe(step_with(correct, texts=texts, run=run, index=index, requests=requests), state, rules)
    return rates, state


@pytest.mark.parametrize("target", [0.5, 0.3])
@pytest.mark.parametrize("easy", [False, True])
def test_the_length_controller_steers_the_pass_rate_of_guided_groups_to_its_target(target, easy):
    def chance(fraction: float) -> float:
        """A longer success prefix is passed more often, a longer failure prefix less often."""
        steep = 1.0 / (1.0 + np.exp(-8.0 * (fraction - 0.6)))
        return 1.0 - steep if easy else steep

    rates, state = simulated(target, chance, easy)
    late = [rate for index, rate in rates if index >= 75]
    assert len(late) > 100
    assert np.mean(late) == pytest.approx(target, abs=0.06)
    kind, other = ("easy", "hard") if easy else ("hard", "easy")
    assert state.levels[other] == 0.5, "the kinds are steered apart"
    assert abs(chance(state.levels[kind]) - target) < 0.2


@pytest.mark.parametrize(("chance", "level"), [(0.0, 0.95), (1.0, 0.05)])
def test_where_no_length_helps_the_controller_stays_in_its_range(chance, level):
    _, state = simulated(0.5, lambda fraction: chance, easy=False, steps=30)
    assert state.levels["hard"] == level


# ---- settings --------------------------------------------------------------------------------------------------------


def test_less_than_one_prompt_is_refused_before_the_first_step():
    with pytest.raises(ExtraError, match=r"less than one prompt; raise it to 0\.125 or more"):
        prefixes(guided_fraction=0.1).init(RUN)
    assert prefixes(guided_fraction=0.125).init(RUN).queue == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sorce": "correct"}, r"explore.prompts.prefixes:\n.*sorce: unknown key; did you mean 'source'\?"),
        ({"source": "wrong"}, "'prefer_correct', 'correct' or 'lowest_entropy'"),
        ({"guided_fraction": 1.5}, r"guided_fraction: .*less than 1 \(got 1.5\)"),
        ({"tau": 0}, "tau: .*greater than 0"),
        ({"max_depth": 0}, "max_depth: .*greater than or equal to 1"),
    ],
)
def test_a_setting_without_a_meaning_is_refused(changes, message):
    with pytest.raises(ExtraError, match=message):
        prefixes(**changes)


def test_success_and_failure_prefixes_are_steered_by_length_unless_told_otherwise():
    assert PrefixSettings().chooser == "lowest_entropy"
    assert PrefixSettings(source="correct").chooser == PrefixSettings(failures=True).chooser == "length"
    assert PrefixSettings(failures=True, choose="lowest_entropy").chooser == "lowest_entropy"
    assert PrefixSettings(failures=True).averaging == "none"
