"""An own task with a train and a test split: write the letters of a word in alphabetical order.

extra-jax train configs/quickstart.yaml data.source=docs/examples/own_task.py:sorting 'data.task={}' \
    'reward.functions=["docs/examples/own_task.py:sorted_well"]' \
    'reward.correct={function: sorted_well, threshold: 1}' eval.data=null
"""

import math
import random
from collections import Counter

from extra_jax import Problem
from extra_jax.data.tasks.family import split_name


def sorting(count: int, *, seed: int, split: str, letters: int = 5) -> list[Problem]:
    """``count`` different words; a hash of the word decides the split, so that no word is in both."""
    rng, words = random.Random(f"{split}/{seed}"), {}
    while len(words) < count:
        word = "".join(rng.choices("abcdefgh", k=letters))
        if split_name(f"sort:{word}") == split:
            words[word] = Problem(f"sort:{word}", f"sort {word}\n", "".join(sorted(word)), meta={"word": word})
    return list(words.values())


def shuffled(problem: Problem) -> float:
    """Probability that the letters in a random order are right; ``eval`` prints it beside pass@k."""
    return math.prod(map(math.factorial, Counter(problem.answer).values())) / math.factorial(len(problem.answer))


sorting.guesser = shuffled


def sorted_well(prompts, completions, answer, **columns) -> list[float]:
    """Share of the letters that stand where they belong; 1 is correct."""
    texts = [completion.strip() for completion in completions]
    return [
        sum(a == b for a, b in zip(text, gold, strict=False)) / max(len(text), len(gold))
        for text, gold in zip(texts, answer, strict=True)
    ]
