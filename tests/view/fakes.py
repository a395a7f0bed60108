"""Run directories made by hand, in the format that trainings write, and with texts that no training would."""

import json
import random
from pathlib import Path

TINY = "\n 0123456789+-*/=abcdefghijklmnopqrstuvwxyz"
HOSTILE = [
    "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>",
    "</script><script>window.stolen = 1</script>",
    '", "prompt_ids": [1, 2], "verdict": "correct", "x": "',
    "javascript:alert(1) \u202e reversed \u0007 bell \ud800 half",
    "{{ 7 * 7 }} <!-- --> &lt;b&gt; ]]> \\u003c",
]
CONFIG = """\
run:
  dir: {dir}
  seed: {seed}
model:
  path: tiny-base
train:
  max_steps: 40
optim:
  learning_rate: {rate}
"""


def row(step, rollout, uid, completion="1+1=2\n", **changes):
    """A completion without tokens, unless they are given."""
    return {
        "step": step, "rollout_id": rollout, "uid": uid, "source": "countdown", "prompt": f"{uid}?\n",
        "completion": completion, "answer": "2", "verdict": "wrong", "grader": "countdown/1", "grader_detail": "",
        "reward": 0.0, "reward_parts": {"countdown": 0.0}, "stop_reason": "stop_token", "advantage": -0.5,
        "prompt_ids": [3, 15], "completion_ids": [1, 2, 3], "logprobs": [-0.1, -0.2, None],
        "entropies": [0.1, 0.2, 0.3], "novelty": None, "nearest": None, "bonus": None, "parent": None,
        "prefix_ids": None, "prefix_fraction": None, "prefix_score": None,
    } | changes  # fmt: skip


def write_step(run: Path, step: int, rows, folder="rollouts") -> Path:
    path = run / folder / f"step_{step:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8", errors="surrogatepass")
    return path


def write_metrics(run: Path, rows) -> None:
    run.mkdir(parents=True, exist_ok=True)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in rows)


def metrics_row(step, **values):
    return {"step": step, "time": 1.7e9 + step, "reward": step / 100, "pass_rate": step / 50, **values}


def random_rows(step, groups, size, seed=0):
    """Groups of one step in which everything that filters look at differs."""
    draw = random.Random(f"{seed} {step}")
    rows = []
    for group in range(groups):
        guided = draw.random() < 0.3 and step > 1
        parent = f"{draw.randrange(1, step)}:{draw.randrange(groups * size)}" if guided else None
        for member in range(size):
            tokens = draw.randrange(1, 30)
            rows.append(
                row(
                    step,
                    group * size + member,
                    rows[-1]["uid"] if member else f"p{draw.randrange(12)}",
                    draw.choice(["12-1=11\n", "needle 7\n", *HOSTILE[:3]]),
                    verdict=draw.choice(["correct", "wrong", "no_answer"]),
                    stop_reason=draw.choice(["stop_token", "length"]),
                    bonus=draw.choice([None, -0.5, 0.25]),
                    completion_ids=list(range(tokens)),
                    logprobs=[-0.5] * tokens,
                    entropies=[0.5] * tokens,
                    parent=parent,
                )
            )
    return rows


def tokens_row(step, rollout, uid, text, stop=True, **changes):
    """A completion of the embedded tokenizer's tokens."""
    from extra_jax.data.tokenizer import load_tokenizer

    ids = load_tokenizer("tiny").encode(text) + ([1] if stop else [])
    numbers = {"completion_ids": ids, "logprobs": [-0.25] * len(ids), "entropies": [0.75] * len(ids)}
    return row(step, rollout, uid, text, **numbers, **changes)


def small_run(run: Path, *, seed=0, rate=0.001, steps=4) -> Path:
    """A run with a lineage (step 3 continues completion 1:1), a neighbour, hostile texts and an evaluation."""
    from extra_jax.data.tokenizer import load_tokenizer

    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(CONFIG.format(dir=run, seed=seed, rate=rate))
    scores = {"eval_pass@1": 0.2, "eval_pass@1_low": 0.1, "eval_pass@1_high": 0.3}
    write_metrics(run, [metrics_row(0, **scores)])
    kept = load_tokenizer("tiny").encode("6+12=18\n")
    for step in range(1, steps + 1):
        write_metrics(
            run, [metrics_row(step, **{"exploration/novelty_mean": 0.1 * step, "eval_pass@1": 0.2 + seed / 9})]
        )
        rows = [tokens_row(step, i, "countdown/7:1,6", "6+12=18\n18-12=6\n", verdict="correct") for i in range(2)]
        rows += [row(step, 2 + i, f"hostile/{step}", text) for i, text in enumerate(HOSTILE)]
        if step == 3:
            guided = {"parent": "1:1", "prefix_ids": kept, "prefix_fraction": 0.4, "prefix_score": 0.21}
            rows += [
                tokens_row(step, 7 + i, "countdown/7:1,6", "1+1=2\n", **guided) | {"completion": "6+12=18\n1+1=2\n"}
                for i in range(2)
            ]
            rows[0] |= {"nearest": "1:0", "novelty": 0.375, "bonus": 0.5}
            rows[1] |= {"stop_reason": "length"}
        write_step(run, step, rows)
    evaluated = [row(0, i, f"held/{i // 2}", verdict="correct", correct=True, length=3) for i in range(4)]
    write_step(run, 0, evaluated, "evals/countdown")
    return run


def indexed(run):
    """A viewed run of which everything is read."""
    run.look()
    for source in run.sources.values():
        while source.read_one():
            pass
    return run
