"""Host time of exploration at the size of the paper: 512 prompts x 6 completions, vectors of 384 numbers.

The encoder is not included: it runs on the accelerator. Prints seconds of the fourth step, when histories are full.
"""

import time
from collections.abc import Sequence

import numpy as np
from lab.diagnostics import diagnostics
from lab.metrics import jaccard

from extra_jax.data.problem import Problem
from extra_jax.exploration import PromptRequest
from extra_jax.explore import RunInfo, Transform, chain, novelty
from extra_jax.explore.encoders import EncoderSettings
from extra_jax.explore.step import Step, make_step
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Rollouts, StopReason

PROMPTS, GROUP, SIZE, STEPS, TOKENS = 512, 6, 384, 4, 512
PROBLEMS = {f"p{i}": Problem(f"p{i}", "", "") for i in range(PROMPTS)}


class NoText:
    """The vectors are hidden states, so nothing is decoded."""

    vocab_size = 5000

    def encode(self, text: str) -> list[int]:
        return []

    def decode(self, ids: Sequence[int]) -> str:
        return ""


def main() -> None:
    run = RunInfo(
        PROBLEMS, {uid: [1] for uid in PROBLEMS}, NoText(), 0, STEPS, PROMPTS, GROUP, 64, TOKENS,
        EncoderSettings(name="policy_hidden"),
    )  # fmt: skip
    arms: dict[str, Transform] = {
        "novelty": novelty(),
        "novelty with diagnostics": chain(novelty(), diagnostics()),
        "L1 with diagnostics": chain(jaccard(), diagnostics()),
    }
    for name, transform in arms.items():
        state, rng = transform.init(run), np.random.default_rng(0)
        for index in range(STEPS):
            step = random_step(rng, run, index)
            began = time.perf_counter()
            _, state, _ = transform.update(step, step.advantages, state)
            seconds = time.perf_counter() - began
        began = time.perf_counter()
        size = nbytes(transform.save(state))
        saved = time.perf_counter() - began
        print(f"{name}: step {seconds:.2f} s, state of {size / 1e6:.1f} MB saved in {saved:.2f} s")


def random_step(rng: np.random.Generator, run: RunInfo, index: int) -> Step:
    total = PROMPTS * GROUP
    correct = rng.random(total) < 0.4
    numbers = rng.random((total, TOKENS)).astype(np.float32)
    tokens = rng.integers(0, NoText.vocab_size, (total, TOKENS)).astype(np.int32)
    lengths = rng.integers(TOKENS // 2, TOKENS, total).astype(np.int32)
    prompts = [np.array([1])] * total
    rollouts = Rollouts(
        np.arange(total), np.arange(total, dtype=np.int32) // GROUP, prompts, tokens, lengths, -numbers, numbers,
        [StopReason.STOP_TOKEN] * total, [np.zeros(0, np.int32)] * total, -numbers, np.zeros_like(numbers),
    )  # fmt: skip
    requests = [PromptRequest(problem) for problem in PROBLEMS.values()]
    scores = Scores(correct.astype(np.float64), np.ones(total, bool), correct, [])
    advantages = np.where(correct, 1.0, -1.0)
    return make_step(index, run, requests, rollouts, scores, advantages, rng.normal(size=(total, SIZE)), 0)


def nbytes(tree: object) -> int:
    if isinstance(tree, dict):
        tree = list(tree.values())
    return sum(map(nbytes, tree)) if isinstance(tree, list) else getattr(tree, "nbytes", 8)


if __name__ == "__main__":
    main()
