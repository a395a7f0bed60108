"""The ``import-hf`` and ``export-hf`` verbs: checkpoints of a run <-> Hugging Face folders."""

from pathlib import Path

from flax import nnx

from extra_jax.checkpoint import Checkpointer, checkpoint_folder
from extra_jax.config import Config
from extra_jax.errors import ExtraError
from extra_jax.learn.grpo import Learner
from extra_jax.model.hf import save_params
from extra_jax.run_dir import locked, open_run
from extra_jax.runtime import Runtime, load_policy


def export_policy(policy: Runtime, params: nnx.State, folder: Path) -> None:
    """Writes parameters, tokenizer and chat template as a Hugging Face folder; replaces an earlier export."""
    save_params(
        folder,
        params,
        policy.model_config,
        tokenizer=policy.tokenizer,
        dtype=policy.config.model.export_dtype or policy.config.model.param_dtype,
        overwrite=True,
    )


def import_hf(config: Config) -> None:
    """The ``import-hf`` verb: ``model.path`` -> step 0 of ``run.dir``, from which ``train`` starts.

    Every tensor is checked on the way.

    Raises:
        ExtraError: the folder is not a whole Qwen3, or the run has checkpoints already.
    """
    if config.model.path is None:
        raise ExtraError("import-hf reads model.path; set it to a Hugging Face model folder")
    policy, params = load_policy(config)
    run_dir = Path(config.run.dir)
    with locked(run_dir), Checkpointer(checkpoint_folder(config, open_run(config))) as checkpoints:
        if checkpoints.latest_step() is not None:
            raise ExtraError(f"{run_dir}: already at step {checkpoints.latest_step()}; choose another run.dir")
        state = Learner(policy.graphdef, config, policy.mesh).init(params)
        checkpoints.save(0, state)
    print(f"imported {config.model.path} as step 0 of {run_dir}")


def export_hf(config: Config, out: str) -> None:
    """The ``export-hf`` verb: newest checkpoint of ``run.dir`` -> the folder ``out``.

    Raises:
        ExtraError: the run has no checkpoint, or ``out`` holds something that is not a model.
    """
    policy, params = load_policy(config)
    run_dir = open_run(config, concerns=("model", "tokenizer"))
    with Checkpointer(checkpoint_folder(config, run_dir), read_only=True) as checkpoints:
        step, params = checkpoints.restore(params, within=".params")
    export_policy(policy, params, Path(out))
    print(f"exported step {step} of {run_dir} to {out}")
