"""The gradient probe: unbiased sketches, variance against many independent steps, and parts that add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learn.steps import PLAIN, ROWS, config, frozen_advantages, frozen_rollouts
from rollout.tiny import graphdef, mesh, params

from benchmarks.exploration.lab.gradient import GradientProbe, advantage_parts, gradient_metrics, sketch


def test_sketches_keep_norms_and_inner_products():
    rng = np.random.default_rng(0)
    a = {"w": rng.normal(size=(300, 40)), "b": rng.normal(size=500)}
    b = {"w": 0.5 * a["w"] + rng.normal(size=(300, 40)), "b": rng.normal(size=500)}
    flat = [np.concatenate([x["b"], x["w"].ravel()]) for x in (a, b)]
    small = [np.asarray(sketch(jax.tree.map(jnp.asarray, x))) for x in (a, b)]
    size = np.linalg.norm(flat[0]) * np.linalg.norm(flat[1])
    assert small[0] @ small[0] == pytest.approx(flat[0] @ flat[0], rel=0.06)
    assert small[0] @ small[1] == pytest.approx(flat[0] @ flat[1], abs=0.06 * size)
    summed = sketch(jax.tree.map(lambda x, y: jnp.asarray(x + y), a, b))
    np.testing.assert_allclose(summed, small[0] + small[1], rtol=1e-3, atol=1e-3)


def test_noise_and_signal_are_unbiased():
    rng = np.random.default_rng(1)
    truth, std, folds, size = rng.normal(size=20), 2.0, 4, 20
    noise, signal = [], []
    for _ in range(3000):
        found = gradient_metrics({"task": truth + std * rng.normal(size=(folds, size))}, 64)
        noise.append(found["gradient/task_noise"])
        signal.append(found["gradient/task_signal"])
    assert np.mean(noise) == pytest.approx(size * std**2 / folds, rel=0.03)
    assert np.mean(signal) == pytest.approx(truth @ truth, rel=0.1)


def test_parts_are_compared_with_the_task():
    folds = np.array([[1.0, 0.0], [3.0, 0.0]])
    found = gradient_metrics({"task": folds, "novelty": 0.5 * folds[:, ::-1]}, 8)
    assert found["gradient/novelty_cos_task"] == 0.0
    assert found["gradient/novelty_over_task"] == pytest.approx(0.5)
    assert found["gradient/total_norm"] == pytest.approx(np.hypot(2.0, 1.0))
    assert found["gradient/task_noise"] == pytest.approx(1.0)
    assert found["gradient/task_snr"] == pytest.approx(3.0)
    assert found["gradient/task_noise_scale"] == pytest.approx(8 / 3)


def test_the_parts_of_a_real_gradient_add_up():
    probe = GradientProbe(graphdef(remat="none"), config(**PLAIN), mesh("1"), every=3, folds=2)
    rollouts, advantages = frozen_rollouts(), frozen_advantages()
    first = np.arange(ROWS) < ROWS // 2
    task, guided = np.where(first, advantages, 0), np.where(first, 0, advantages)
    found = probe(params(), rollouts, {"task": task, "guided": guided, "novelty": np.zeros(ROWS)}, 3)
    whole = probe(params(), rollouts, {"task": advantages}, 3)
    assert found["gradient/total_norm"] == pytest.approx(whole["gradient/task_norm"], rel=1e-4)
    assert found["gradient/guided_norm"] > 0
    assert not any("novelty" in name for name in found), "a part that is nowhere is left out"
    assert probe(params(), rollouts, {"task": task}, 4) == {}, "not due"
    kept = np.flatnonzero(rollouts.prompt_index > 0)  # dynamic sampling leaves groups out; numbers have gaps then
    fewer = probe(params(), rollouts.take(kept), {"task": advantages[kept]}, 3)
    assert fewer["gradient/task_norm"] > 0
    assert probe(params(), rollouts, {"task": advantages}, 4) == {}, "it is not due"


def test_advantages_are_taken_apart():
    task, total, guided = np.array([1.0, -1.0, 2.0]), np.array([1.5, -1.0, 2.0]), np.array([False, False, True])
    parts = advantage_parts(task, total, guided)
    assert {name: part.tolist() for name, part in parts.items()} == {
        "task": [1.0, -1.0, 0.0],
        "novelty": [0.5, 0.0, 0.0],
        "guided": [0.0, 0.0, 2.0],
    }
