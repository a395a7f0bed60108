"""Train, look and export, as in a notebook: python docs/examples/notebook.py OUT_FOLDER"""

import sys
from pathlib import Path

import extra_jax as ex

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/notebook")


def brevity(completions, **columns):
    """A little less for every character."""
    return [-len(text) / 100 for text in completions]


small = {"train.max_steps": 3, "train.prompts_per_step": 16, "eval.num_generations": 4, "eval.data.limit": 16}
run = ex.train(
    "configs/quickstart.yaml",
    {"run.dir": str(out / "run"), "explore.encoder": {"name": "hashed_ngram"}, **small},
    rewards=["countdown", {"function": brevity, "weight": 0.1}],
    explore=[ex.explore.novelty(alpha=0.3)],
)
print(run.history.steps("reward"), run.history["reward"], run.history["eval_pass@1"])

answers = run.policy.generate(["3 4 6 = 24\n"], n=4, max_completion_length=32)
for text, entropies in zip(answers.texts[0], answers.entropies[0], strict=True):
    print(f"{entropies.mean():.2f} nats", repr(text))

steps, rewards = run.history.steps("reward"), run.history["reward"]
line = " ".join(f"{40 * step:.0f},{100 - 100 * reward:.0f}" for step, reward in zip(steps, rewards, strict=True))
head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 120">'
(out / "reward.svg").write_text(f'{head}<polyline points="{line}" fill="none" stroke="teal"/></svg>')
print(run.export(out / "export"))
