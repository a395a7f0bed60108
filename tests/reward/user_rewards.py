"""Reward functions as users write them, good and bad."""

import os
import time

from extra_jax.reward.door import reward
from extra_jax.reward.verdict import Grade, Grader, Verdict


def lengths(completions, **columns):
    return [float(len(c)) for c in completions]


def seen(prompts, completions, **columns):
    """What the door passes, as text in an error: the one way out of a worker."""
    raise RuntimeError(f"{prompts} {completions} {sorted(columns)} {columns['completion_ids']} {columns['level']}")


def declared(completions, level, answer):
    return [level[i] * 1.0 if answer[i] in completions[i] else None for i in range(len(completions))]


def wrong_type(completions):
    return ["high" for _ in completions]


def too_few(completions):
    return [1.0]


def not_a_number(completions):
    return [float("nan") for _ in completions]


def no_list(completions):
    return 1.0


def divides(completions):
    return [1 / 0 for _ in completions]


def sleeps(completions):
    time.sleep(60)


def eats(completions):
    return [bytearray(1 << 45)]


def dies(completions):
    os._exit(3)


def wants(completions, anwser):
    return [0.0 for _ in completions]


def process(completions):
    return [float(os.getpid()) for _ in completions]


@reward(name="at_home", in_process=True)
def process_here(completions):
    return [float(os.getpid()) for _ in completions]


async def patient(completions, seconds):
    import asyncio

    await asyncio.sleep(seconds)
    return [seconds for _ in completions]


class Shouts(Grader):
    """A grader: correct is what is written in capitals."""

    name = "shouts/1"

    def grade(self, problems, completions):
        return [Grade(Verdict.CORRECT if c.isupper() else Verdict.WRONG, c, self.name) for c in completions]
