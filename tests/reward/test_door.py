"""The reward door: what functions are called with, what becomes of their answers and of their failures."""

import asyncio
import os
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from extra_jax.config import DataConfig, config_from_dict
from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.reward.door import Batch, FunctionReward, register, reward
from extra_jax.reward.metrics import reward_metrics
from extra_jax.reward.overlap import OverlappedGrading
from extra_jax.reward.rewards import make_rewards
from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Verdict

FILE = f"{Path(__file__).parent}/user_rewards.py"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROBLEMS = [
    Problem("a", "1+1?", "2", "two", "sums", {"level": 1}),
    Problem("b", ({"role": "user", "content": "2+2?"},), "4", None, "sums", {"level": 2, "kind": "easy"}),
    Problem("c", "3+3?", "6", None, "sums", {"level": 3}),
]
TEXTS = [r"\boxed{2}", r"\boxed{5}", "six"]
IDS = [[1, 2], [3], [4, 5, 6]]


def rewards_with(*functions, source="x.jsonl", longest=8, **section):
    tree = {"model": {"preset": "tiny"}, "rollout": {"max_completion_length": longest}}
    config = config_from_dict(tree | {"reward": {"functions": list(functions), **section}})
    return make_rewards(config.reward, DataConfig(source=source), longest)


def score(*functions, problems=PROBLEMS, texts=TEXTS, ids=IDS, **section):
    with closing(rewards_with(*functions, **section)) as rewards:
        return rewards(problems, texts, ids)


def own(name, **settings):
    return {"function": f"{FILE}:{name}", **settings}


PLAIN = {"problems": [PROBLEMS[0], PROBLEMS[2]], "texts": [TEXTS[0], TEXTS[2]], "ids": [IDS[0], IDS[2]]}


# -- what a function gets


def test_a_function_with_kwargs_gets_every_column_of_trl_and_chats_where_the_problem_is_one():
    detail = score("math", own("seen")).grades[0].detail
    assert detail.startswith(
        "seen: RuntimeError: ['1+1?', [{'role': 'user', 'content': '2+2?'}], '3+3?'] "
        r"['\\boxed{2}', [{'role': 'assistant', 'content': '\\boxed{5}'}], 'six'] "
        "['answer', 'completion_ids', 'kind', 'level', "
    )
    from reward.user_rewards import seen

    columns = Batch(PROBLEMS, TEXTS, IDS, 8)
    arguments = FunctionReward("seen", seen, None, {}).arguments(columns)
    assert arguments["completion_ids"] == IDS
    assert (arguments["kind"], arguments["solution"]) == ([None, "easy", None], ["two", None, None])
    assert "max_completion_length" not in arguments, "TRL has no such column"


def test_a_function_gets_what_it_declares_and_none_says_nothing():
    scores = score("math", own("declared"), **PLAIN)
    np.testing.assert_array_equal(scores.parts["declared"], [1.0, np.nan])
    assert scores.rewards.tolist() == [2.0, 0.0]
    assert scores.valid.tolist() == [True, True], "the grader says something about both"


def test_a_completion_about_which_nothing_is_said_is_invalid():
    correct = {"function": f"{FILE}:declared", "threshold": 1}
    scores = score(own("declared"), correct=correct, **PLAIN)
    assert scores.valid.tolist() == scores.correct.tolist() == [True, False]
    assert scores.grades[1].detail == "declared says nothing"


def test_rewards_are_the_weighted_sum():
    scores = score({"function": "math", "weight": 2.0}, own("lengths", weight=-0.5), **PLAIN)
    assert scores.rewards.tolist() == [2 - 0.5 * 9, -0.5 * 3]
    assert scores.parts["lengths"].tolist() == [9, 3], "parts are what the functions said"
    assert scores.correct.tolist() == [True, False]


def test_functions_are_called_once_with_all_completions_in_order_while_graders_overlap_with_decoding():
    calls = []

    @reward(in_process=True)
    def counted(completions, uid):
        calls.append(list(zip(uid, completions, strict=True)))
        return [float(len(completions))] * len(completions)

    problems = [Problem(name, "", "1") for name in "abc"]
    with closing(rewards_with("math", "counted")) as rewards:
        grading = OverlappedGrading(rewards, lambda ids: "".join(map(chr, ids)), problems)
        for row, text in ((2, "z"), (0, "x"), (1, "y")):
            grading.finished(row, np.array([ord(text)]))
        assert not calls
        texts, scores = grading.result()
    assert calls == [[("a", "x"), ("b", "y"), ("c", "z")]]
    assert texts == ["x", "y", "z"]
    assert scores.parts["counted"].tolist() == [3.0] * 3


# -- where it runs


def test_functions_run_in_a_worker_unless_they_or_the_configuration_say_so():
    here = float(os.getpid())
    assert score("math", own("process"), **PLAIN).parts["process"][0] != here
    assert score("math", own("process", in_process=True), **PLAIN).parts["process"][0] == here
    assert score("math", own("process_here"), **PLAIN).parts["at_home"][0] == here


def test_a_closure_runs_here_and_a_function_of_a_module_in_a_worker():
    @reward
    def closure(completions):
        return [float(os.getpid()) for _ in completions]

    from reward import user_rewards

    assert register(user_rewards.process) == "process"
    parts = score("math", "closure", "process", **PLAIN).parts
    assert parts["closure"][0] == os.getpid() != parts["process"][0]
    assert score("math", "reward.user_rewards:lengths", **PLAIN).parts["lengths"].tolist() == [9, 3]


def test_async_functions_run_side_by_side_also_where_a_loop_is_running():
    async def notebook():
        return score("math", own("patient", args={"seconds": 0.5}), "slow_too", **PLAIN)

    @reward
    async def slow_too(completions):
        await asyncio.sleep(0.5)
        return [1.0 for _ in completions]

    with closing(rewards_with("math", own("patient", args={"seconds": 0.5}), "slow_too")) as rewards:
        rewards(PROBLEMS[:1], TEXTS[:1], IDS[:1])  # starts the workers
        start = time.monotonic()
        rewards(PROBLEMS[:1], TEXTS[:1], IDS[:1])
        assert time.monotonic() - start < 0.95
    assert asyncio.run(notebook()).parts["patient"].tolist() == [0.5, 0.5]


# -- failures


@pytest.mark.parametrize(
    ("name", "settings", "verdict", "detail"),
    [
        ("divides", {}, "error", "divides: ZeroDivisionError: division by zero"),
        ("divides", {"in_process": True}, "error", "divides: ZeroDivisionError: division by zero"),
        ("wrong_type", {}, "error", "wrong_type: TypeError: value 0 is 'high', neither a number nor None"),
        ("too_few", {}, "error", "too_few: ValueError: returned 1 values for 2 completions"),
        ("not_a_number", {}, "error", "value 0 is nan; return None"),
        ("no_list", {"in_process": True}, "error", "returned float, not a list"),
        ("sleeps", {"timeout": 0.5}, "timeout", "sleeps: no result after 0.5 s"),
        ("patient", {"timeout": 0.2, "args": {"seconds": 9}}, "timeout", "patient: no result after 0.2 s"),
        ("eats", {}, "error", "eats: memory limit"),
        ("dies", {}, "error", "dies: worker ended with exit code 3"),
    ],
)
def test_a_failure_is_a_verdict_with_the_name_of_the_function_and_never_a_zero(name, settings, verdict, detail, caplog):
    scores = score("math", own(name, **settings), **PLAIN)
    assert not scores.valid.any()
    assert [grade.verdict for grade in scores.grades] == [verdict] * 2
    assert detail in scores.grades[0].detail
    assert scores.correct.tolist() == [True, False], "whether an answer is right does not depend on it"
    assert np.isnan(scores.parts[name]).all()
    assert name in caplog.text


def test_what_a_grader_cannot_grade_stays_invalid_whatever_others_say():
    problems = [Problem("a", "", "np.arcsin(1)"), Problem("b", "", "1")]
    scores = score("math", own("lengths"), problems=problems, texts=[r"\boxed{x}", "1"], ids=[[1], [1]])
    assert [grade.verdict for grade in scores.grades] == [Verdict.GOLD_UNPARSEABLE, Verdict.NO_ANSWER]
    assert scores.valid.tolist() == [False, True]


def test_verdicts_are_worth_what_args_say():
    values = {"wrong": -1, "no_answer": None}
    scores = score({"function": "math", "args": {"values": values}}, problems=PROBLEMS[::2] + PROBLEMS[:1],
                       texts=[r"\boxed{2}", "six", r"\boxed{3}"])  # fmt: skip
    assert scores.rewards.tolist() == [1.0, 0.0, -1.0]
    assert scores.valid.tolist() == [True, False, True]


# -- names and settings


@pytest.mark.parametrize(
    ("functions", "section", "message"),
    [
        (["maths"], {}, "did you mean 'math'.*chain, .*overlong"),
        ([own("lenghts")], {}, "has no 'lenghts'; did you mean 'lengths'"),
        (["nowhere.py:f"], {}, "no file"),
        ([own("lengths")], {}, "nothing says which completions are correct. Set reward.correct to {function: lengths"),
        ([own("lengths"), own("lengths")], {}, "two functions are called 'lengths'"),
        (["math", own("lengths")], {"correct": f"{FILE}:lengths"}, "is no grader; give .*threshold"),
        ([own("lengths")], {"correct": "math"}, r"math is not in reward.functions; add {function: math, weight: 0}"),
        (["math"], {"correct": {"function": "math", "threshold": 1}}, "remove the threshold"),
        ([{"function": "math", "timeout": 3}], {}, "no effect on the grader math"),
        ([{"function": "math", "args": {"strict": 1}}], {}, "math.strict: unknown setting; did you mean 'strict_th"),
        ([{"function": "math", "args": {"values": {"wrnog": 1}}}], {}, "no verdict is called 'wrnog'; did you"),
        (["math", {"function": "length", "args": {"longets": 3}}], {}, "did you mean 'longest'"),
        (["math", {"function": "overlong", "args": {"cache": 9}}], {}, "overlong has args.cache=9"),
        (["math", {"function": "overlong"}], {}, "overlong has args.cache=None"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_remedy(functions, section, message):
    with pytest.raises(ExtraError, match=message):
        rewards_with(*functions, **section)


def test_a_column_that_no_problem_has_is_refused_before_the_run():
    with pytest.raises(ExtraError, match=r"wants takes 'anwser'.*did you mean 'answer'"):
        rewards_with("math", own("wants")).check(PROBLEMS)
    rewards_with("math", own("declared"), {"function": "overlong", "args": {"cache": 2}}).check(PROBLEMS)
    with pytest.raises(ExtraError, match="length takes 'longest'"):
        rewards_with("math", "length").check(PROBLEMS)


def test_the_name_of_ours_is_not_taken():
    with pytest.raises(ExtraError, match="the name 'math' is taken by the package"):

        @reward(name="math")
        def other(completions): ...


def test_a_grader_of_ones_own_says_correct():
    scores = score(own("Shouts"), texts=["A", "b", "C"])
    assert scores.correct.tolist() == [True, False, True]
    assert (scores.grades[0].grader, list(scores.parts)) == ("shouts/1", ["Shouts"])


def test_auto_is_the_grader_of_the_task():
    assert rewards_with("auto", source="chain").describe() == "chain, correct by chain"
    assert rewards_with("auto", source="a.jsonl").name == "math/2"
    assert rewards_with("auto", own("lengths", weight=0.5)).describe() == "math + 0.5 x lengths, correct by math"


# -- those of the package


def of_dapo(length: int, longest: int, cache: int) -> float:
    """Eq. 13, as printed."""
    if length <= longest - cache:
        return 0.0
    if length <= longest:
        return ((longest - cache) - length) / cache
    return -1.0


@pytest.mark.parametrize(("longest", "cache"), [(100, 20), (7, 7), (10, 1)])
def test_overlong_is_that_of_dapo_at_every_length(longest, cache):
    lengths = range(1, longest + 1)
    scores = score(
        "countdown", {"function": "overlong", "args": {"cache": cache}}, longest=longest, source="countdown",
        problems=[Problem("p", "", "")] * longest, texts=[""] * longest, ids=[[0] * n for n in lengths],
    )  # fmt: skip
    assert scores.parts["overlong"].tolist() == pytest.approx([of_dapo(n, longest, cache) for n in lengths])


def test_length_and_format():
    args = {"longest": 2, "shortest": 2, "span": 2}
    texts = ["<think>a</think> \\boxed{2}\n", "<think><think>a</think> \\boxed{2}", "\\boxed{2}"]
    scores = score("math", "format", {"function": "length", "args": args}, texts=texts)
    assert scores.parts["format"].tolist() == [1.0, 0.0, 0.0]
    assert scores.parts["length"].tolist() == [0.0, -0.5, -0.5]


def test_a_prompt_that_opens_thinking_can_be_said_so():
    strict = {"strict_thinking": True, "prompt_opens_thinking": True}
    assert score({"function": "math", "args": strict}).grades[0].detail == "thinking was not closed"


def test_a_grader_that_asks_for_it_hears_that_prompts_open_a_thought():
    cut, closed = "Let me try \\boxed{2} ... wait", "hm</think>\\boxed{2}"
    for opens, expected in ((False, "correct"), (True, "no_answer")):
        functions = [{"function": "math_strict_thinking"}, {"function": "countdown"}]
        config = config_from_dict({"model": {"preset": "tiny"}, "reward": {"functions": functions}})
        rewards = make_rewards(config.reward, DataConfig(source="x.jsonl"), 8, prompt_opens_thinking=opens)
        with closing(rewards):
            grades = rewards([PROBLEMS[0]] * 2, [cut, closed], [[1], [2]]).grades
        assert [grade.verdict for grade in grades] == [expected, "correct"]


def test_metrics_are_trls_and_leave_out_what_was_not_said():
    parts = {"math": np.array([1.0, 0.0, 1.0]), "own": np.array([np.nan, 2.0, 4.0]), "none": np.full(3, np.nan)}
    metrics = reward_metrics(Scores(np.zeros(3), np.ones(3, bool), np.ones(3, bool), [], parts))
    assert metrics == {
        "rewards/math/mean": pytest.approx(2 / 3), "rewards/math/std": pytest.approx(np.std([1, 0, 1], ddof=1)),
        "rewards/own/mean": 3.0, "rewards/own/std": pytest.approx(2**0.5),
    }  # fmt: skip


# -- the examples of docs/howto/own-reward.md


def test_the_examples_of_the_documentation_run():
    problems, texts = [Problem("p", "", "2")] * 3, [r"please \boxed{2}", r"\boxed{2}", r"\boxed{2}"]
    two = str(EXAMPLES / "two_rewards.py")
    scores = score(
        "math", f"{EXAMPLES}/own_reward.py:brevity", {"function": f"{two}:rarity", "weight": 0.1},
        {"function": f"{two}:politeness", "weight": 0.05, "args": {"word": "please"}},
        problems=problems, texts=texts, ids=IDS,
    )  # fmt: skip
    assert scores.valid.all()
    assert scores.parts["rare"].tolist() == [1.0, 0.5, 0.5]
    assert scores.parts["politeness"].tolist() == [1.0, 0.0, 0.0]
    brevity = [0.1 / (1 + len(text) / 50) for text in texts]
    assert scores.rewards.tolist() == pytest.approx(np.add(brevity, [1.15, 1.05, 1.05]))
    for path in EXAMPLES.glob("*reward*.py"):
        assert len(path.read_text().splitlines()) <= 40


def test_the_door_imports_no_jax():
    import subprocess

    program = "import sys, extra_jax.reward.rewards; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
