"""Self-distillation, the baseline without a judge: the frozen initial model sees the reference and says what it would
have written.

Source: ``docs/methods/exprl.md`` 1.1: the signal of a token is ``log student - log teacher``, constant to the gradient;
the loss is the mean over tokens of that times the student's log-probability.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from extra_jax.data.problem import Problem, prompt_text
from extra_jax.errors import ExtraError
from extra_jax.learn.batch import Example, MicroBatches, micro_batches, packed_targets
from extra_jax.learn.score import token_logprobs
from extra_jax.learn.update import micro_batch
from extra_jax.parallel.processes import allgather, to_local
from extra_jax.runtime import Runtime


class Teacher:
    """The initial policy with the reference in its prompt.

    Args:
        problems: all problems of the run; each needs a reference solution.

    Raises:
        ExtraError: a problem without a reference, or a template without its fields.
    """

    def __init__(self, policy: Runtime, params: nnx.State, problems: Sequence[Problem]):
        self.policy, self._params = policy, jax.tree.map(jnp.copy, params)
        config = policy.config
        self._contexts = {p.uid: np.array(self._prompt(p), np.int32) for p in problems}
        longest = max(len(ids) for ids in self._contexts.values())
        self._row_length = longest + config.rollout.max_completion_length

        def score(params: nnx.State, batches: MicroBatches, index: jax.Array) -> jax.Array:
            model = nnx.merge(policy.graphdef, params)
            rows = micro_batch(batches, index)
            return token_logprobs(model, rows, temperature=config.rollout.temperature, dtype=config.model.dtype)[0]

        self._score = jax.jit(score)

    def advantages(self, rows: Sequence[Mapping[str, Any]]) -> tuple[list[np.ndarray], dict[str, float]]:
        """``log teacher - log student`` of every token, for stored rollouts of this process, and the mean of its
        negative, an estimate of the reverse KL divergence in nats a token."""
        contexts, targets = [self._contexts[row["uid"]] for row in rows], [np.array(row["token_ids"]) for row in rows]
        examples = [Example(c, t, weight=1.0) for c, t in zip(contexts, targets, strict=True)]
        mesh = self.policy.mesh
        rows_per_shard = self.policy.config.train.micro_batch_rows
        batches = micro_batches(examples, self._row_length, rows_per_shard, mesh, share_contexts=True)
        with jax.set_mesh(mesh):
            scored = [to_local(self._score(self._params, batches, np.int32(i))) for i in range(int(batches.count))]
        scores, places = np.concatenate(scored), packed_targets(examples, self._row_length, share_contexts=True)
        teacher = [
            scores[row, start : start + len(target)].astype(np.float64)
            for (row, _, start), target in zip(places, targets, strict=True)
        ]
        students = [np.array(row["logprobs"]) + np.array(row["log_kept"]) for row in rows]
        signal = [t - s for t, s in zip(teacher, students, strict=True)]
        parts = np.array([[sum(x.sum() for x in signal), sum(map(len, signal))]], np.float64)
        total, count = allgather(parts).sum(axis=0)
        return signal, {"distill/reverse_kl": float(-total / count)}

    def _prompt(self, problem: Problem) -> list[int]:
        template = self.policy.config.exprl.teacher_template
        if problem.solution is None:
            raise ExtraError(f"problem {problem.uid} has no solution; the teacher of self-distillation needs one")
        if "{problem}" not in template or "{reference}" not in template:
            raise ExtraError(f"exprl.teacher_template {template!r} must contain {{problem}} and {{reference}}")
        head, _, tail = template.partition("{reference}")
        text = prompt_text(problem.prompt, only="user").rstrip("\n")
        filled = head.replace("{problem}", text) + problem.solution + tail.replace("{problem}", text)
        return self.policy.tokenizer.encode_prompt(filled)
