"""AdamW with warm-up, as the configuration states it."""

import jax
import optax
from flax import nnx

from extra_jax.config import OptimConfig


def learning_rate(config: OptimConfig, total_updates: int) -> optax.Schedule:
    """Linear warm-up from 0, then constant or cosine to 0 at ``total_updates``."""
    if config.lr_scheduler_type == "cosine":
        after = optax.cosine_decay_schedule(config.learning_rate, max(total_updates - config.warmup_steps, 1))
    else:
        after = optax.constant_schedule(config.learning_rate)
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: OptimConfig, total_updates: int) -> optax.GradientTransformation:
    """Global-norm clip, then AdamW; weight decay acts on matrices, not on norms and biases."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            learning_rate(config, total_updates),
            config.adam_beta1,
            config.adam_beta2,
            config.adam_epsilon,
            weight_decay=config.weight_decay,
            mask=_is_matrix,
        ),
    )


def _is_matrix(params: nnx.State) -> nnx.State:
    """1 for parameters with an ``embed`` axis: all matrices and no norm; stacking layers does not matter."""

    def matrix(variable: nnx.Variable) -> nnx.Variable:
        axes = variable.get_metadata()["axes"]
        return variable.replace(len(axes) > 1 and "embed" in axes)

    return jax.tree.map(matrix, params, is_leaf=lambda x: isinstance(x, nnx.Variable))
