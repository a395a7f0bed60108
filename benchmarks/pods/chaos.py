"""What becomes of a run of several processes when one of them, or its disk, or its machine, does not behave.

    PYTHONPATH=$PWD python benchmarks/pods/chaos.py WORK [--processes 4] [--devices 2] [--only kill,disk ...]

Every trial disturbs a run, waits for all processes to be gone (at most its bound), starts the same command again and
compares the result, bit for bit, with a run that nothing disturbed. Exit status 1 where one of that fails. Prints a
table and adds it to WORK/trials.jsonl.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
os.environ |= ENVIRONMENT | {"JAX_COMPILATION_CACHE_DIR": os.path.abspath(sys.argv[1] + "/cache")}

from benchmarks.pods.pod import Pod, Trouble, differences, evaluating, saving, steps  # noqa: E402  jax reads them

GRADER = """import os
def broken(prompts, completions, **columns):
    if os.environ.get("POD_PROCESS") == "1":
        raise RuntimeError("the grader of this machine is broken")
    return [0.5] * len(completions)
"""
ENDED = 600.0  # seconds that an undisturbed run may take here


class Trial(NamedTuple):
    """``act`` disturbs a run; then all processes are gone within ``bound`` seconds, each with one of ``statuses``, and
    at least one has said ``words``."""

    title: str
    act: Callable[[Pod], None]
    bound: float
    statuses: set[int]
    words: str = ""


def when(happened: Callable[[Path], bool], *signals: tuple[int, int]) -> Callable[[Pod], None]:
    """Sends ``(process, signal)`` each, once something happens."""

    def act(pod: Pod) -> None:
        pod.until(lambda: happened(pod.run))
        for index, number in signals:
            pod.processes[index].send(number)
            time.sleep(0.1)

    return act


def decoding(run: Path) -> bool:
    """In the second step, after its first chunks."""
    return steps(run) >= 1


def paused(pod: Pod) -> None:
    when(decoding, (1, signal.SIGSTOP))(pod)
    time.sleep(60)
    pod.processes[1].send(signal.SIGCONT)


def full(pod: Pod) -> None:
    """The disk of process 0 takes no more: no file may grow beyond a kilobyte."""
    when(decoding)(pod)
    resource.prlimit(pod.processes[0].pid, resource.RLIMIT_FSIZE, (1000, 1000))


def nothing(pod: Pod) -> None:
    pass


GONE = {75, -signal.SIGABRT, -signal.SIGKILL}
TERM = signal.SIGTERM
TRIALS = {
    "kill": Trial("kill -9 of process 1 in decode", when(decoding, (1, signal.SIGKILL)), 45, GONE, "process 1"),
    "kill0": Trial("kill -9 of process 0 in a save", when(saving, (0, signal.SIGKILL)), 45, GONE),
    "pause": Trial("SIGSTOP of process 1 for 60 s", paused, ENDED, {0}, "has given no sign of life"),
    "stop": Trial("SIGSTOP of process 1 for ever", when(decoding, (1, signal.SIGSTOP)), 150, GONE, "no sign of life"),
    "decode": Trial("SIGTERM to process 1 in decode", when(decoding, (1, TERM)), 60, {0}, "asked to stop"),
    "evaluation": Trial("SIGTERM to process 1 in an evaluation", when(evaluating, (1, TERM)), 60, {0}, "asked to stop"),
    "save": Trial("SIGTERM to process 1 in a save", when(saving, (1, TERM)), 60, {0}, "asked to stop"),
    "twice": Trial(
        "SIGTERM to all, twice, in a save", when(saving, *[(i, TERM) for i in (0, 1, 0, 1)]), 60, {0}, "asked to stop"
    ),
    "unshared": Trial("run.dir is not shared", nothing, 90, {2}, "is not one folder for all processes"),
    "disk": Trial("disk full on process 0", full, 120, {2}, "File too large"),
    "grader": Trial("a reward function raises in process 1", nothing, ENDED, {0}, "grader of this machine is broken"),
    "tracker": Trial("a tracker is not installed on process 0", nothing, 90, {2}, "trackio"),
}


def settings(name: str, work: Path) -> list[str]:
    """Further settings of a trial."""
    if name == "grader":
        (work / "grader.py").write_text(GRADER)
        return [f"reward.functions=[{{function: '{work}/grader.py:broken'}}, {{function: countdown, weight: 0}}]"]
    return ["logging.trackers=[trackio]"] if name == "tracker" else []


def attempt(name: str, work: Path, count: int, devices: int) -> dict[str, object]:
    """One trial: what was expected and what was seen."""
    trial, run = TRIALS[name], work / name
    for path in work.glob(f"{name}*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    runs = [work / f"{name}_{index}" for index in range(count)] if name == "unshared" else run
    row: dict[str, object] = {"trial": trial.title, "processes": count, "bound": trial.bound}
    try:
        with Pod(runs, *settings(name, work), count=count, devices=devices) as pod:
            trial.act(pod)
            if name == "stop":  # the frozen one can end no more
                others = [process for process in pod.processes if process is not pod.processes[1]]
                pod.processes = others
            statuses, seconds = pod.finish(trial.bound)
            row |= {"seconds": round(seconds, 1), "statuses": statuses}
            if not set(statuses) <= trial.statuses:
                raise Trouble(f"exit statuses {statuses}, expected {trial.statuses}\n{pod.printed()}")
            heard = [index for index, log in enumerate(pod.logs) if trial.words in log.read_text()]
            row["said by"] = heard
            if not heard:
                raise Trouble(f"nobody says {trial.words!r}\n{pod.printed()}")
        if name not in ("unshared", "grader", "tracker"):
            if name != "pause":
                with Pod(run, count=count, devices=devices) as again:
                    statuses, _ = again.finish(ENDED)
                    if any(statuses):
                        raise Trouble(f"the same command ended with {statuses}\n{again.printed()}")
            row["differs"] = differences(run, work / "reference")
        row["passed"] = not row.get("differs")
    except Trouble as trouble:
        row |= {"passed": False, "trouble": str(trouble)}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--devices", type=int, default=2, help="of each process")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(TRIALS))
    args = parser.parse_args()
    work = args.work.absolute() / f"{args.processes}x{args.devices}"
    reference = work / "reference"
    if not (reference / "export").exists() and set(args.only) - {"unshared", "grader", "tracker"}:
        with Pod(reference, count=args.processes, devices=args.devices) as pod:
            statuses, seconds = pod.finish(ENDED)
            if any(statuses):
                raise Trouble(pod.printed())
            print(f"undisturbed: {seconds:.0f} s", flush=True)
    passed = True
    for name in args.only:
        row = attempt(name, work, args.processes, args.devices)
        passed &= bool(row["passed"])
        with (work / "trials.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row) if "trouble" not in row else f"{name}: {row['trouble']}", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
