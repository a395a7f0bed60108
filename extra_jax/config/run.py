"""Where and on what a run happens: directories, processes, model, mesh, checkpoints, logs."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from extra_jax.config.section import MAX_ROWS, MAX_STEPS, DType, Rows, Section, Seed, Steps

Axis = Annotated[int, Field(ge=-1, le=MAX_ROWS)]
RematPolicy = Literal["none", "dots", "full"]


class RunConfig(Section):
    dir: str = Field("runs/default", description="Run directory: checkpoints, metrics, rollouts, report, export.")
    seed: Seed = Field(0, description="Seed of data order, initial weights and every token sampled in training.")


class DistributedConfig(Section):
    """Several processes in lockstep. On Cloud TPU, GKE and SLURM everything but ``enabled`` is detected."""

    enabled: bool | Literal["auto"] = Field(
        False,
        description="Join the processes of a run, one per host. `auto`: where a cluster is detected; else alone.",
    )
    coordinator_address: str | None = Field(None, description="HOST:PORT of process 0.")
    num_processes: Rows | None = Field(None, description="How many processes there are.")
    process_id: int | None = Field(None, ge=0, lt=MAX_ROWS, description="Which of them this one is, from 0.")


class ModelConfig(Section):
    path: str | None = Field(
        None,
        description="Hugging Face folder to start from, or ORG/NAME, which is downloaded; `tiny-base` is the small "
        "model in the package.",
    )
    preset: str | None = Field(None, description="Random initial weights of a named size (tiny, 0.6B, ..., 32B).")
    param_dtype: DType = Field("float32", description="Master weights and optimizer state.")
    dtype: DType = Field("bfloat16", description="Activations and the weights as the matmuls read them.")
    remat: RematPolicy = Field("full", description="What the backward pass recomputes: nothing, non-matmuls, layers.")
    export_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="Weights in Hugging Face exports; default: param_dtype."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.preset is None):
            raise ValueError("give exactly one of model.path (a folder) and model.preset (random weights)")
        return self


class MeshConfig(Section):
    """Sizes of the mesh axes; at most one is -1 and takes the devices that are left."""

    emulated_cpu_devices: int | None = Field(
        None, ge=1, le=256, description="Split the CPU into this many devices, which then work side by side; CPU only."
    )
    data: Axis = Field(1, description="Pure data parallelism: parameters replicated along it (across slices).")
    fsdp: Axis = Field(-1, description="Data parallelism with parameters and optimizer state sharded along it.")
    tensor: Axis = Field(1, description="Tensor parallelism inside a layer.")

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        sizes = (self.data, self.fsdp, self.tensor)
        if 0 in sizes or sizes.count(-1) > 1:
            raise ValueError(
                f"data, fsdp, tensor = {sizes}: a size is at least 1, and at most one is -1 (what is left)"
            )
        return self


class TokenizerConfig(Section):
    path: str | None = Field(None, description="Tokenizer folder or `tiny`; default: the folder of the model.")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Passed to the chat template, e.g. {enable_thinking: false}."
    )


class CheckpointConfig(Section):
    dir: str | None = Field(
        None,
        description="Their folder, local or gs://BUCKET/PATH (extra `gcs`); default: run.dir/checkpoints.",
    )
    every: Steps = Field(50, description="Steps between checkpoints; the last step is always saved.")
    keep: int = Field(2, ge=1, le=10_000, description="How many checkpoints are kept, the newest ones.")


class LoggingConfig(Section):
    rollouts_every: int = Field(1, ge=0, le=MAX_STEPS, description="Steps between rollout records; 0: none.")
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="Besides metrics.jsonl, which is always written."
    )

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_alone(cls, raw: Any) -> Any:
        return (raw,) if isinstance(raw, str) else raw
