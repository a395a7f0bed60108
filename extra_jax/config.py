"""The whole configuration: one typed, frozen tree.

Nothing else in the package reads YAML or the environment. A configuration is a YAML file plus
``key.sub=value`` overrides; unknown keys are errors that name the nearest key. Field names are TRL's
``GRPOConfig`` names where the concept exists there.
"""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from extra_jax.errors import ExtraError
from extra_jax.reward.verdict import Verdict

DType = Literal["float32", "bfloat16"]
RematPolicy = Literal["none", "dots", "full"]


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunConfig(Section):
    dir: str = Field("runs/default", description="Run directory: checkpoints, metrics, rollouts, report, export.")
    seed: int = Field(0, description="Seed of data order, initial weights and every sampled token.")


class DistributedConfig(Section):
    """Several processes in lockstep. On Cloud TPU, GKE and SLURM everything but ``enabled`` is detected."""

    enabled: bool = Field(False, description="Call jax.distributed.initialize() first; one process per host.")
    coordinator_address: str | None = Field(None, description="HOST:PORT of process 0.")
    num_processes: int | None = Field(None, ge=1)
    process_id: int | None = Field(None, ge=0)


class ModelConfig(Section):
    path: str | None = Field(
        None, description="Hugging Face folder to start from; `tiny-base` is the small model in the package."
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
        None, ge=1, description="Split the CPU into this many devices, which then work side by side; CPU only."
    )
    data: int = Field(1, description="Pure data parallelism: parameters replicated along it (across slices).")
    fsdp: int = Field(-1, description="Data parallelism with parameters and optimizer state sharded along it.")
    tensor: int = Field(1, description="Tensor parallelism inside a layer.")


class TokenizerConfig(Section):
    path: str | None = Field(None, description="Tokenizer folder or `tiny`; default: the folder of the model.")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Passed to the chat template, e.g. {enable_thinking: false}."
    )


class DataConfig(Section):
    source: str = Field("countdown", description="`countdown`, `chain`, FILE.jsonl, FILE.parquet or `hub:ORG/NAME`.")
    split: str = Field("train", description="Split of a generated task or of a hub data set.")
    limit: int | None = Field(None, ge=1, description="Use this many problems; generated tasks make this many.")
    prompt_template: str | None = Field(None, description="Wraps a text problem; must contain {problem}.")
    system: str | None = Field(None, description="System message in front of a text problem.")
    columns: dict[str, str] = Field(
        default_factory=dict, description="Other column names of a file, e.g. {prompt: question}."
    )
    task: dict[str, Any] = Field(default_factory=dict, description="Difficulty of a generated task.")

    @model_validator(mode="after")
    def _task_is_difficulty(self) -> Self:
        if clash := sorted({"count", "seed", "split", "limit"} & self.task.keys()):
            raise ValueError(f"task.{clash[0]} is no difficulty; it is set elsewhere (run.seed, split, limit)")
        return self


class RolloutConfig(Section):
    temperature: float = Field(1.0, ge=0.0, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, description="0 is off.")
    min_p: float = Field(0.0, ge=0.0, lt=1.0)
    max_prompt_length: int = Field(512, ge=1, description="Tokens; a longer prompt is refused, never truncated.")
    max_completion_length: int = Field(1024, ge=1, description="Tokens, the stop token included.")
    dtype: DType = Field("bfloat16", description="Weights and cache of the sampler.")
    slots: int = Field(128, ge=1, description="Completions that decode side by side, all devices together.")
    chunk: int = Field(16, ge=1, description="Tokens between two looks of the scheduler.")


class RewardConfig(Section):
    grader: Literal["auto", "countdown", "chain", "math", "math_strict_thinking", "dapo", "math_verify"] = Field(
        "auto",
        description="`auto` is the grader of a generated task, and `math` for everything else. "
        "`math_strict_thinking` counts an unclosed <think> as no answer; `dapo` and `math_verify` are for comparison.",
    )
    values: dict[Verdict, float] = Field(
        default_factory=lambda: {v: float(v is Verdict.CORRECT) for v in Verdict},
        description="Reward of each verdict; verdicts not named keep their default.",
    )
    exclude: tuple[Verdict, ...] = Field(
        (Verdict.GOLD_UNPARSEABLE, Verdict.TIMEOUT, Verdict.ERROR),
        description="Verdicts that say nothing about the policy: out of the group baseline, advantage 0.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_values(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("values"), dict):
            default = {v.value: float(v is Verdict.CORRECT) for v in Verdict}
            given = {str(getattr(k, "value", k)): value for k, value in raw["values"].items()}
            raw = {**raw, "values": default | given}
        return raw


class OptimConfig(Section):
    learning_rate: float = Field(1e-6, gt=0)
    lr_scheduler_type: Literal["constant", "cosine"] = Field("constant", description="After the warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Optimizer updates of linear warm-up from 0.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled (AdamW); matrices only.")
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = Field(1.0, gt=0)


class GRPOConfig(Section):
    max_steps: int = Field(100, ge=1, description="Rollout-and-update steps of the whole run.")
    prompts_per_step: int = Field(64, ge=1)
    num_generations: int = Field(8, ge=2, description="Group size G.")
    num_minibatches: int = Field(1, ge=1, description="Optimizer updates per pass over the step's completions.")
    num_iterations: int = Field(1, ge=1, description="Passes over the step's completions (mu).")
    row_length: int | None = Field(
        None, ge=1, description="Tokens of a packed row; default: the longest prompt and completion."
    )
    micro_batch_rows: int = Field(1, ge=1, description="Packed rows per forward/backward on a data-parallel shard.")
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    epsilon: float = Field(0.2, gt=0)
    epsilon_high: float | None = Field(0.28, gt=0, description="None: the same as epsilon.")
    delta: float | None = Field(None, gt=1, description="Upper cap of the ratio where the advantage is negative.")
    beta: float = Field(0.0, ge=0, description="KL coefficient; the reference model exists only when it is > 0.")
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    mask_truncated_completions: bool = False

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.num_generations

    @property
    def minibatch_size(self) -> int:
        """Completions per optimizer update."""
        return self.completions_per_step // self.num_minibatches

    @property
    def updates_per_step(self) -> int:
        return self.num_minibatches * self.num_iterations

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.prompts_per_step % self.num_minibatches:
            raise ValueError(
                f"prompts_per_step={self.prompts_per_step} does not divide into num_minibatches={self.num_minibatches}"
            )
        return self


class SFTConfig(Section):
    max_steps: int = Field(100, ge=1)
    batch_size: int = Field(64, ge=1, description="Examples per optimizer update.")
    row_length: int = Field(1024, ge=2, description="Tokens of a packed row; a longer example is refused.")
    micro_batch_rows: int = Field(1, ge=1, description="Packed rows per forward/backward on a data-parallel shard.")


class EvalConfig(Section):
    data: DataConfig | None = Field(None, description="Held-out problems; None turns evaluation off.")
    every: int = Field(0, ge=0, description="Steps between evaluations; 0: only before the first and after the last.")
    num_generations: int = Field(8, ge=1, description="Samples a problem (n of pass@k).")
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, lt=1)
    max_completion_length: int | None = Field(None, ge=1, description="Default: the rollout's.")


class CheckpointConfig(Section):
    every: int = Field(50, ge=1, description="Steps between checkpoints; the last step is always saved.")
    keep: int = Field(2, ge=1)


class LoggingConfig(Section):
    rollouts_every: int = Field(1, ge=0, description="Steps between rollout records; 0: none.")
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="Besides metrics.jsonl, which is always written."
    )


class Config(Section):
    """Every setting of a run. The verbs use the sections that concern them."""

    run: RunConfig = RunConfig()
    distributed: DistributedConfig = DistributedConfig()
    model: ModelConfig
    mesh: MeshConfig = MeshConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    optim: OptimConfig = OptimConfig()
    train: GRPOConfig = GRPOConfig()
    sft: SFTConfig = SFTConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def max_sequence_length(self) -> int:
        """Tokens of the longest prompt and completion."""
        return self.rollout.max_prompt_length + self.rollout.max_completion_length

    @model_validator(mode="after")
    def _rows_hold_sequences(self) -> Self:
        if self.train.row_length and self.train.row_length < self.max_sequence_length:
            raise ValueError(
                f"train.row_length={self.train.row_length} is shorter than rollout.max_prompt_length + "
                f"max_completion_length = {self.max_sequence_length}"
            )
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and applies ``key.sub=value`` overrides.

    Raises:
        ExtraError: the file is missing or not YAML, a key is unknown (the nearest one is named), or a
            value has the wrong type or breaks a rule between fields.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError as error:
        raise ExtraError(f"{path}: no such configuration file") from error
    except yaml.YAMLError as error:
        raise ExtraError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ExtraError(f"{path}: the top level must be a mapping of sections, not {type(tree).__name__}")
    for override in overrides:
        _apply_override(tree, override)
    return _validate(tree, str(path))


def config_from_dict(tree: Mapping[str, Any], origin: str = "config") -> Config:
    """Validates a nested mapping; ``origin`` names it in errors."""
    return _validate(dict(tree), origin)


def save_config(config: Config, path: str | Path) -> None:
    """Writes the resolved configuration; ``load_config`` reads it back unchanged."""
    Path(path).write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def config_differences(old: Config, new: Config, ignore: Iterable[str] = ()) -> list[str]:
    """Dotted keys whose values differ, as ``key: old -> new`` lines; keys under ``ignore`` are left out."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    ignored = tuple(ignore)
    return [
        f"{key}: {json.dumps(before.get(key))} -> {json.dumps(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not any(key == i or key.startswith(i + ".") for i in ignored)
    ]


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ExtraError(f"override {override!r} is not of the form key.sub=value")
    *sections, leaf = key.split(".")
    node = tree
    for section in sections:
        child = node.get(section)
        if child is None:
            child = node[section] = {}
        elif not isinstance(child, dict):
            raise ExtraError(f"override {override!r}: {section!r} is a value, not a section")
        node = child
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ExtraError(f"override {override!r}: {text!r} is not valid YAML: {error}") from error


def _validate(tree: dict[str, Any], origin: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise ExtraError(f"{origin}:\n  " + "\n  ".join(lines)) from error


def _explain(problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(location)}"
    message = problem["msg"].removeprefix("Value error, ")
    return (
        f"{key}: {message} (got {problem['input']!r})"
        if not isinstance(problem["input"], dict)
        else f"{key}: {message}"
    )


def _nearest(location: list[str]) -> str:
    """Names the nearest key of the same section, or else of the whole tree."""
    known, leaf = _known_keys(Config), location[-1]
    siblings = [k for k in known if k.rpartition(".")[0] == ".".join(location[:-1])]
    for candidates, cutoff in ((known, 1.0), (siblings, 0.6), (known, 0.75)):
        by_leaf = {k.rpartition(".")[2]: k for k in reversed(candidates)}  # of equal names the first section wins
        if match := difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=cutoff):
            return f"; did you mean {by_leaf[match[0]]!r}?"
    return f"; known keys here: {', '.join(k.rpartition('.')[2] for k in siblings)}"


def _known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                keys += _known_keys(candidate, f"{prefix}{name}.")
    return keys
