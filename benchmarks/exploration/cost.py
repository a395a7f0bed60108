"""Host time of exploration at the size of the paper: 512 prompts x 6 completions, vectors of 384 numbers.

The encoder is not included: it runs on the accelerator. Prints seconds of the fourth step, when histories are full.
"""

import time

import numpy as np

from extra_jax.config import config_from_dict
from extra_jax.explore.distance import normalise
from extra_jax.explore.lexical import ngram_codes
from extra_jax.explore.novelty import Rows, layout, measure, pay, remember
from extra_jax.explore.state import ExplorationState

PROMPTS, GROUP, SIZE, STEPS = 512, 6, 384, 4


def main() -> None:
    train = {"prompts_per_step": PROMPTS, "num_generations": GROUP}
    for explore in ({"preset": "corrected"}, {"arm": "N1"}, {"arm": "L1"}):
        config = config_from_dict({"model": {"preset": "tiny"}, "train": train, "explore": explore})
        state, rng = ExplorationState(), np.random.default_rng(0)
        for step in range(STEPS):
            rows = random_rows(rng, codes=config.explore.arm is not None)
            began = time.perf_counter()
            keys = [f"p{slot}" for slot in rows.slot]
            where = layout(keys)
            measured = measure(rows, where, state, config.explore, group=GROUP, seed=0, step=step)
            paid = pay(measured, state, config.explore.novelty, schedule=1.0)
            state.scales, state.used_scales = paid.scales, paid.used_scales
            remember(rows, keys, state, config.explore.novelty, group=GROUP, step=step)
            seconds = time.perf_counter() - began
        began = time.perf_counter()
        saved = len(state.dumps())
        dumped = time.perf_counter() - began
        print(f"{explore}: step {seconds:.2f} s, state of {saved / 1e6:.1f} MB written in {dumped:.2f} s")


def random_rows(rng: np.random.Generator, *, codes: bool) -> Rows:
    total = PROMPTS * GROUP
    correct = rng.random(total) < 0.4
    return Rows(
        slot=np.repeat(np.arange(PROMPTS), GROUP),
        rollout_ids=np.arange(total),
        lengths=rng.integers(500, 4000, total).astype(float),
        logprobs=-rng.random(total),
        entropies=rng.random(total),
        correct=correct,
        valid=np.ones(total, bool),
        truncated=np.zeros(total, bool),
        rewards=np.where(correct, 1.0, -1.0),
        vectors=normalise(rng.normal(size=(total, SIZE))),
        codes=[ngram_codes(rng.integers(0, 5000, 512), 2) for _ in range(total)] if codes else (),
    )


if __name__ == "__main__":
    main()
