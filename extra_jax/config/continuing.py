"""What may differ when a run is continued."""

from extra_jax.config.tree import Config

# Where and how it runs, not what it computes.
_MAY_CHANGE = (
    "run.dir",
    "distributed",
    "mesh",
    "logging",
    "plan",
    "checkpoint.every",
    "checkpoint.keep",
    "model.remat",
    "train.micro_batch_rows",
    "train.dump_steps",
    "rollout.slots",
    "rollout.chunk",
    "rollout.reuse",
    "judge.endpoint",
    "judge.concurrency",
    "judge.timeout",
    "judge.retries",
    "judge.backoff",
    "judge.api_key_env",
    "judge.cache",
    "exprl.wait_timeout",
    "exprl.min_scored",
    "exprl.drift_tolerance",
)


def may_change(config: Config) -> tuple[str, ...]:
    """Keys and sections that another value of does not make another run. A run may be made longer, unless its learning
    rate was laid out over its length."""
    longer = () if config.optim.lr_scheduler_type == "cosine" else ("train.max_steps", "sft.max_steps")
    return (*_MAY_CHANGE, *longer)
