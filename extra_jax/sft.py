"""Supervised fine-tuning on reference solutions: the ``sft`` verb. It also makes the small base model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from extra_jax.config import Config
from extra_jax.data.load import encode_solutions, load_data
from extra_jax.data.loader import ProblemLoader
from extra_jax.data.problem import Problem
from extra_jax.learn.batch import Example, TokenBatch, micro_batches
from extra_jax.learn.loss import Mean, sequence_weights
from extra_jax.learn.optimizer import make_optimizer
from extra_jax.learn.score import token_logprobs
from extra_jax.learn.update import LossFn, Update, init_state
from extra_jax.run import Run, TrainResult
from extra_jax.runtime import Runtime, load_policy


def sft(config: Config) -> TrainResult:
    """Trains ``model`` on the solutions of ``data`` and exports it; continues the run that is there.

    The loss is the mean over all solution tokens of a batch; prompts are context.

    Raises:
        ExtraError: a problem without a solution, or an example longer than ``sft.row_length``.
    """
    policy, params = load_policy(config)
    settings = config.sft
    with Run(policy, settings.max_steps) as run:
        problems = load_data(config.data, config.run.seed)
        examples = encode_examples(policy, problems, settings.row_length)
        share = (jax.process_index(), jax.process_count())
        loader = ProblemLoader(problems, settings.batch_size, config.run.seed, *share)
        optimizer = make_optimizer(config.optim, settings.max_steps)
        update = Update(solution_loss(policy), optimizer, policy.mesh)
        run.start(init_state(params, optimizer, policy.mesh), loader=loader)

        for step in run.steps():
            batch = [examples[problem.uid] for problem in loader.next()]
            weights = sequence_weights("dapo", np.array([len(example.target) for example in batch]), 1)
            batch = [replace(example, weight=weight) for example, weight in zip(batch, weights, strict=True)]
            rows = micro_batches(batch, settings.row_length, settings.micro_batch_rows, policy.mesh)
            run.state, learned = update(run.state, rows)
            metrics = {name: float(value) for name, value in jax.device_get(learned).items()}
            run.finish_step(step, metrics | {"epoch": loader.epoch})
    return run.result()


def solution_loss(policy: Runtime) -> LossFn:
    """Cross-entropy of the solution tokens, as a ``LossFn``."""

    def loss_fn(params: nnx.State, batch: TokenBatch) -> tuple[jax.Array, dict[str, Mean]]:
        model = nnx.merge(policy.graphdef, params)
        logprobs, entropies = token_logprobs(model, batch, temperature=1.0, dtype=policy.config.model.dtype)
        loss, mask = -jnp.sum(logprobs * batch.weights), batch.mask.astype(jnp.float32)
        return loss, {"entropy": Mean(jnp.sum(entropies * mask), jnp.sum(mask))}

    return loss_fn


def encode_examples(policy: Runtime, problems: list[Problem], row_length: int) -> dict[str, Example]:
    """Prompt and solution of each problem by uid."""
    pairs = encode_solutions(policy.tokenizer, problems, row_length)
    return {uid: Example(np.array(p, np.int32), np.array(s, np.int32)) for uid, (p, s) in pairs.items()}
