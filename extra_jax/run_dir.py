"""The run directory: one configuration, and everything that came of it.

``config.yaml``, ``run.json``, ``checkpoints/``, ``metrics.jsonl``, ``rollouts/``, ``evals/``, ``report.html`` and
``export/`` (a Hugging Face folder).
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import jax

from extra_jax.checkpoint import CHECKPOINTS
from extra_jax.config import Config, config_differences, load_config, save_config
from extra_jax.errors import ExtraError
from extra_jax.files import write_file
from extra_jax.parallel.processes import is_main
from extra_jax.telemetry.files import CONFIG_FILE, METRICS_FILE, RUN_FILE

# What may differ when a run is continued: where and how it runs, not what it computes.
_MAY_CHANGE = (
    "run.dir",
    "distributed",
    "mesh",
    "logging",
    "plan",
    "checkpoint",
    "model.remat",
    "train.micro_batch_rows",
    "train.dump_steps",
    "rollout.slots",
    "rollout.chunk",
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


def open_run(config: Config, *, concerns: tuple[str, ...] = ()) -> Path:
    """Makes the run directory, or checks that the one that exists belongs to this configuration.

    Args:
        concerns: sections that must agree with the run that is there, for verbs that only read it; default: all
            that the training depends on.

    A directory in which nothing has run yet (the inputs were refused, or it was killed first) takes any configuration.

    Raises:
        ExtraError: the directory holds a run of another configuration; the differing keys are listed.
    """
    directory = Path(config.run.dir)
    saved = directory / CONFIG_FILE
    if saved.exists() and _has_results(directory):
        ignored = tuple(Config.model_fields.keys() - set(concerns)) if concerns else _may_change(config)
        if differences := config_differences(load_config(saved), config, ignored):
            raise ExtraError(
                f"{directory}: holds a run of another configuration:\n  "
                + "\n  ".join(differences)
                + "\nChoose another run.dir, or remove this one. To go on from its weights with these settings, export "
                "them (extra-jax export-hf) and start a new run with model.path=FOLDER"
            )
    if is_main() and not (concerns and saved.exists()):
        save_config(config, saved)
        write_file(directory / RUN_FILE, json.dumps(_environment(), indent=2))
    return directory


def check_length(directory: Path, done: int, max_steps: int) -> None:
    """Refuses to end a run before the step that it has reached."""
    if done > max_steps:
        raise ExtraError(f"{directory}: is at step {done} already, beyond max_steps={max_steps}; raise it")


def _has_results(directory: Path) -> bool:
    """Whether anything was measured or saved."""
    metrics = directory / METRICS_FILE
    return any((directory / CHECKPOINTS).glob("*")) or (metrics.exists() and metrics.stat().st_size > 0)


def _may_change(config: Config) -> tuple[str, ...]:
    """A run may be made longer, unless its learning rate was laid out over its length."""
    longer = () if config.optim.lr_scheduler_type == "cosine" else ("train.max_steps", "sft.max_steps")
    return (*_MAY_CHANGE, *longer)


def _environment() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("extra-jax", "jax", "flax", "optax", "orbax-checkpoint")},
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
    }
