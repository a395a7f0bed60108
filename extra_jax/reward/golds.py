"""Can a right answer earn a reward? Asked of the problems before a run.

An answer that the grader cannot read, or a prompt that asks for another form than the grader reads (DAPO-Math-17k asks
for a line ``Answer: ...``, verl's GSM8K for ``#### ...``), makes groups without a gradient, however good the policy.
"""

import logging
import re
from collections.abc import Sequence

from extra_jax.data.problem import Problem, prompt_text
from extra_jax.errors import ExtraError
from extra_jax.reward.comparable import MathVerifyGrader, StrictBoxGrader
from extra_jax.reward.math import plain_rational
from extra_jax.reward.rewards import Rewards
from extra_jax.reward.verdict import Grader, Verdict
from extra_jax.reward.workers import MathGrader, WorkerPool

_logger = logging.getLogger(__name__)

# What a prompt holds that asks for a form -> an answer in this form; the first counts. Asked for nothing, it is a box.
_BOX = "The answer is $\\boxed{%s}$."
_FORMS = (
    (re.compile(r"\\f?boxed"), _BOX),
    (re.compile("####"), "#### %s"),
    (re.compile("<answer>"), "<answer>%s</answer>"),
    (re.compile(r"\banswer\s*:", re.IGNORECASE), "Answer: %s"),
)
_SHOWN = 3


def gold_problems(golds: Sequence[str]) -> list[str]:
    """Why ``math`` cannot grade against each of the answers, ``""`` where it can; read in killable processes."""
    open_ = [gold for gold in dict.fromkeys(golds) if plain_rational(gold) is None]
    reasons: dict[str, str] = {}
    if open_:
        with WorkerPool("extra_jax.reward.math:gold_problem") as pool:
            outcomes = [future.result() for future in [pool.submit(gold) for gold in open_]]
        reasons = {
            gold: outcome.value if outcome.status == "done" else f"{outcome.status}: {outcome.detail}"
            for gold, outcome in zip(open_, outcomes, strict=True)
        }
    return [reasons.get(gold, "") for gold in golds]


def form_problems(problems: Sequence[Problem], grader: Grader) -> list[str]:
    """Why a right answer, written as its prompt asks, is not judged correct; ``""`` where it is."""
    forms = [next((form for asks, form in _FORMS if asks.search(prompt_text(p.prompt))), _BOX) for p in problems]
    completions = [f"<think>\n\n</think>\n\n{form % p.answer}" for form, p in zip(forms, problems, strict=True)]
    grades = grader.submit(problems, completions).result()
    return [
        ""
        if grade.verdict is Verdict.CORRECT
        else f"{form % problem.answer!r:.80} is {grade.verdict}" + (f" ({grade.detail})" if grade.detail else "")
        for problem, form, grade in zip(problems, forms, grades, strict=True)
    ]


def check_problems(problems: Sequence[Problem], rewards: Rewards, most: int = 200) -> str:
    """Refuses problems that these rewards cannot be given for; says in how many a right answer is rewarded.

    Args:
        problems: of a run, or of a benchmark.
        rewards: for their completions; a right answer is tried where the grader reads answers in a box.
        most: Problems that are tried, spread over all.

    Raises:
        ExtraError: a function wants a column that no problem has, or a right answer earns nothing in more than half of
            the problems that were tried; in fewer, it is a warning.
    """
    rewards.check(problems)
    grader = rewards.grader
    if not isinstance(grader, MathGrader | StrictBoxGrader | MathVerifyGrader):
        return ""
    tried = problems[:: -(-len(problems) // most)]
    golds = [problem.answer for problem in tried]
    unread = gold_problems(golds) if isinstance(grader, MathGrader) else [""] * len(tried)
    unlike = form_problems(tried, grader)
    faults = [(p, gold or form) for p, gold, form in zip(tried, unread, unlike, strict=True) if gold or form]
    if faults:
        shown = "; ".join(f"{problem.uid}: {reason}" for problem, reason in faults[:_SHOWN])
        message = f"a right answer earns nothing in {len(faults):,} of {len(tried):,} problems tried ({shown})"
        if any(unread):
            message += ". Write answers as values, or remove their rows: `extra-jax data lint FILE` lists all of them"
        if any(form and not gold for gold, form in zip(unread, unlike, strict=True)):
            message += (
                f". The grader {grader.name} reads \\boxed{{}}: let the prompts ask for it, and for no other form "
                "(data.prompt_template; `extra-jax data fetch dapo_math_17k` brings that set with bare problems)"
            )
        if 2 * len(faults) > len(tried):
            raise ExtraError(message)
        _logger.warning(message)
    return f"a right answer is rewarded in {len(tried) - len(faults):,} of {len(tried):,} problems tried"
