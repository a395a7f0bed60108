"""The ``import-hf`` and ``export-hf`` verbs: checkpoints of a run <-> Hugging Face folders."""

from pathlib import Path

from flax import nnx

from extra_jax.checkpoint import CHECKPOINTS, Checkpointer, restore_params
from extra_jax.config import Config
from extra_jax.errors import ExtraError
from extra_jax.model.hf import save_params
from extra_jax.policy import Policy, load_policy
from extra_jax.run_dir import open_run


def export_policy(policy: Policy, params: nnx.State, folder: Path) -> None:
    """Writes parameters, tokenizer and chat template as a Hugging Face folder; replaces an earlier export."""
    save_params(
        folder,
        params,
        policy.model_config,
        tokenizer=policy.tokenizer,
        dtype=policy.config.model.export_dtype or policy.config.model.param_dtype,
        overwrite=True,
    )


def export_hf(config: Config, out: str) -> None:
    """The ``export-hf`` verb: newest checkpoint of ``run.dir`` -> the folder ``out``.

    Raises:
        ExtraError: the run has no checkpoint, or ``out`` holds something that is not a model.
    """
    policy, params = load_policy(config)
    run_dir = open_run(config, concerns=("model", "tokenizer"))
    if not (run_dir / CHECKPOINTS).exists():
        raise ExtraError(f"{run_dir}: no checkpoint to export; train first, or set run.dir")
    step, params = restore_params(params, run_dir)
    export_policy(policy, params, Path(out))
    print(f"exported step {step} of {run_dir} to {out}")
