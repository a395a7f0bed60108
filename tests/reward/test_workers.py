"""Workers: a poisoned task costs its own slot and nothing else, nothing gets lost, nothing is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.reward import workers
from extra_jax.reward.verdict import Grade, Verdict
from extra_jax.reward.worker_process import Channel
from extra_jax.reward.workers import Limits, MathGrader, Outcome, PendingGrades, WorkerPool

TASKS = f"{__package__}.tasks:run"
QUICK = Limits(deadline_seconds=2.0, cpu_seconds=1, memory_mb=512, tasks_per_worker=100)


@pytest.fixture
def pool():
    with WorkerPool(TASKS, workers=2, limits=QUICK) as pool:
        yield pool


@pytest.fixture(scope="module")
def grader():
    with MathGrader(limits=Limits(deadline_seconds=10, cpu_seconds=1)) as grader:
        yield grader


def problem(gold):
    return Problem("p", "", gold)


def boxed(answer):
    return rf"\boxed{{{answer}}}"


def gone(pid):
    """Wait until no process (not even a zombie of ours) has this id."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return os.getppid() != pid  # adopted by an init that does not reap: dead all the same
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


# -- outcomes


def test_results_come_back_to_their_own_future(pool):
    futures = [pool.submit("echo", value) for value in range(200)]
    assert [future.result().value for future in futures] == list(range(200))


@pytest.mark.parametrize(
    ("fate", "value", "status", "detail"),
    [
        ("sleep", None, "timeout", "no result after 2 s"),
        ("burn", None, "timeout", ""),
        ("stop", None, "timeout", "no result after 2 s"),
        ("hog", None, "error", "memory limit of 512 MB"),
        ("recurse", None, "error", "RecursionError"),
        ("fail", "luck", "error", "ValueError: no luck"),
        ("exit", 3, "error", "exit code 3"),
        ("crash", None, "error", "SIGSEGV"),
        ("object", None, "error", "TypeError"),
    ],
)
def test_every_fate_is_told(pool, fate, value, status, detail):
    outcome = pool.submit(fate, value).result()
    assert outcome.status == status
    assert outcome.value is None
    assert detail in outcome.detail
    assert pool.submit("echo", "after").result() == Outcome("done", "after", "")


def test_processor_time_is_bounded_when_the_wall_is_not():
    limits = Limits(deadline_seconds=600, cpu_seconds=1, memory_mb=512)
    with WorkerPool(TASKS, workers=1, limits=limits) as pool:
        outcome = pool.submit("burn").result()
    assert (outcome.status, outcome.detail) == ("timeout", "used more than 1 s of processor time")


def test_poison_costs_its_own_slot_and_nothing_else(pool):
    """More poison than workers, good tasks in between and behind."""
    poisons = ["sleep", "hog", "crash", "stop", "recurse", "exit"]
    plan = [fate for poison in poisons for fate in (poison, "echo", "echo")] + ["echo"] * 20
    outcomes = [future.result() for future in [pool.submit(fate, None) for fate in plan]]
    assert [outcome.status == "done" for outcome in outcomes] == [fate == "echo" for fate in plan]
    assert all(outcome.detail for outcome, fate in zip(outcomes, plan, strict=True) if fate != "echo")


# -- processes


def test_workers_are_forked_from_a_template_without_jax_and_recycled():
    with WorkerPool(TASKS, workers=1, limits=Limits(tasks_per_worker=3)) as pool:
        seen = [pool.submit("who").result().value for _ in range(9)]
    assert [jax for _, _, jax in seen] == [False] * 9
    assert len({template for _, template, _ in seen}) == 1
    assert [seen[place][0] == seen[place - 1][0] for place in range(1, 9)] == [True, True, False] * 2 + [True, True]


def test_close_leaves_no_process(pool):
    pids = {pid for future in [pool.submit("who") for _ in range(20)] for pid in future.result().value[:2]}
    busy = pool.submit("sleep")
    pool.close()
    assert busy.result() == Outcome("error", None, "the worker pool was closed")
    assert all(gone(pid) for pid in pids)
    pool.close()
    with pytest.raises(ExtraError, match="closed"):
        pool.submit("echo")


_SCRIPT = f"""
import sys
from extra_jax.reward.workers import WorkerPool
pool = WorkerPool({TASKS!r}, workers=2)
print(*pool.submit("who").result().value[:2], flush=True)
pool.submit("sleep")
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_workers_end_with_the_process_that_made_them(end):
    """At interpreter exit the pool closes itself; a killed process takes its workers along."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _SCRIPT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        worker, template = map(int, process.stdout.readline().split())
        if end == "kill":
            process.kill()
        process.stdin.close()
        process.wait()
    assert gone(worker)
    assert gone(template)
    assert process.returncode == (0 if end == "exit" else -signal.SIGKILL)


def test_a_worker_killed_from_outside_is_replaced_and_its_task_runs_again():
    with WorkerPool(TASKS, workers=2) as pool:
        pid = pool.submit("who").result().value[0]
        outcomes = [pool.submit("sleep", 0.5) for _ in range(2)]
        os.kill(pid, signal.SIGKILL)
        assert [future.result().status for future in outcomes] == ["done", "done"]
        assert pool.submit("echo", 1).result().value == 1


def test_when_the_template_is_killed_nothing_gets_lost(pool):
    template = pool.submit("who").result().value[1]
    futures = [pool.submit("echo", value) for value in range(50)]
    os.kill(template, signal.SIGKILL)
    futures += [pool.submit("echo", value) for value in range(50, 100)]
    assert [future.result().value for future in futures] == list(range(100))
    assert pool.submit("who").result().value[1] != template


def test_a_frozen_template_is_replaced_and_nothing_gets_lost(pool, monkeypatch, caplog):
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 1.0)
    template = pool.submit("who").result().value[1]
    os.kill(template, signal.SIGSTOP)
    futures = [pool.submit("echo", value) for value in range(50)]
    assert [future.result(60).value for future in futures] == list(range(50))
    assert "no answer for 3 s; started again" in caplog.text
    assert gone(template)


def test_a_template_that_is_frozen_while_it_starts_is_a_named_error(monkeypatch):
    monkeypatch.setattr(workers, "_START_SECONDS", 0.1)
    monkeypatch.setattr(workers, "_LOOK_SECONDS", 0.05)
    with WorkerPool(TASKS, workers=1) as pool:
        os.kill(pool._process.pid, signal.SIGSTOP)
        future = pool.submit("echo", 1)
        with pytest.raises(ExtraError, match="could not start"):
            future.result(60)


def test_a_pool_that_cannot_start_says_so():
    with WorkerPool("extra_jax.no_such_module:run", workers=1) as pool:
        with pytest.raises(ExtraError, match="could not start"):
            pool.submit("x").result()
        with pytest.raises(ExtraError, match="could not start"):
            pool.submit("x")
    with pytest.raises(ExtraError, match="at least 1 worker"):
        WorkerPool(TASKS, workers=0)


def test_a_pool_is_not_used_in_a_fork(pool, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("extra_jax.reward.workers.os.getpid", lambda: -1)
        with pytest.raises(ExtraError, match="fork"):
            pool.submit("echo")
        pool.close()  # the child's copy must not stop the parent's workers
    assert pool.submit("echo", 1).result().value == 1


def test_threads_share_a_pool(pool):
    results = {}

    def work(name):
        futures = [pool.submit("echo", [name, value]) for value in range(100)]
        results[name] = [future.result().value for future in futures]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {name: [[name, value] for value in range(100)] for name in range(6)}


def test_large_messages_do_not_block_each_other(pool):
    text = "x" * 300_000
    futures = [pool.submit("echo", text) for _ in range(40)]
    assert all(future.result().value == text for future in futures)


def test_arguments_have_to_be_json(pool):
    with pytest.raises(TypeError):
        pool.submit("echo", object())
    assert pool.submit("echo", "\ud800 ∞").result().value == "\ud800 ∞"
    assert list(Channel.encode([1, "a"])) == [0, 0, 0, 8, *b'[1, "a"]']


# -- grading


def test_grades_follow_the_order_of_the_input(grader):
    golds = ["5", r"\frac{\sqrt{2}}{2}", "x^2-1", "", "np.f(1)", "7"]
    answers = [boxed("5"), boxed(r"\frac{1}{\sqrt2}"), boxed("(x-1)(x+2)"), boxed("1"), boxed("2"), "none"]
    grades = grader.grade([problem(gold) for gold in golds], answers)
    assert [grade.verdict for grade in grades] == [
        Verdict.CORRECT, Verdict.CORRECT, Verdict.WRONG, Verdict.GOLD_UNPARSEABLE, Verdict.GOLD_UNPARSEABLE,
        Verdict.NO_ANSWER,
    ]  # fmt: skip
    assert {grade.grader for grade in grades} == {"math/2"}
    assert grades[2].answer == "(x-1)(x+2)"


def test_poisoned_samples_do_not_touch_their_neighbours(grader):
    """Hostile golds and answers between good ones, also where math-verify has to be asked."""
    poison = [
        ("7", "10**10**10"),
        ("x", "9^{9^{9^{9^9}}}"),
        ("x", "(" * 20_000 + "x" + ")" * 20_000),
        ("x", "x+" * 50_000),
        (r"\binom{10^9}{5\cdot10^8}+1", r"\binom{10^9}{5\cdot10^8}"),
        (r"\int_0^1 9^{9^{9^9}} dx", r"\int_0^2 9^{9^{9^9}} dx"),
        (r"\sum_{k=1}^{10^9} \frac{1}{k!}", r"\sum_{k=0}^{10^9} \frac{1}{k!}"),
        ("1,2", "1," * 2900),
    ]
    pairs = [pair for bad in poison for pair in (bad, (r"\sqrt{8}", r"2\sqrt{2}"), ("x+1", "1+x"))]
    grades = grader.grade([problem(gold) for gold, _ in pairs], [boxed(answer) for _, answer in pairs])
    assert [grade.verdict for place, grade in enumerate(grades) if place % 3] == [Verdict.CORRECT] * (2 * len(poison))
    for grade in grades[::3]:
        assert grade.verdict in (Verdict.WRONG, Verdict.TIMEOUT, Verdict.ERROR, Verdict.GOLD_UNPARSEABLE)
        assert grade.detail or grade.verdict == Verdict.WRONG


def test_submit_does_not_wait(grader):
    pending = grader.submit([problem("x+1")] * 50, [boxed("1+x")] * 50)
    assert [grade.verdict for grade in pending.result()] == [Verdict.CORRECT] * 50


def test_pending_grades_map_outcomes_to_verdicts():
    futures = [Future() for _ in range(3)]
    pending = PendingGrades("g", [Grade(Verdict.WRONG, "1", "g"), *[("a", future) for future in futures]])
    outcomes = [
        Outcome("done", ["correct", "b", ""], ""), Outcome("timeout", None, "late"), Outcome("error", None, "broken"),
    ]  # fmt: skip
    for future, outcome in zip(futures, outcomes, strict=True):
        future.set_result(outcome)
    assert pending.result()[1:] == [
        Grade(Verdict.CORRECT, "b", "g"),
        Grade(Verdict.TIMEOUT, "a", "g", "late"),
        Grade(Verdict.ERROR, "a", "g", "broken"),
    ]


def test_lengths_have_to_match(grader):
    with pytest.raises(ValueError, match="zip"):
        grader.grade([problem("1")], [])


def test_grader_can_be_closed_twice():
    with contextlib.closing(MathGrader(workers=1)) as grader:
        assert grader.grade([problem("x")], [boxed("x+0")])[0].verdict == Verdict.CORRECT
        grader.close()
