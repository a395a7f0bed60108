"""The settings of a TRL or verl configuration under the names they have here, and what cannot be translated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from extra_jax.config.foreign import TRL, VERL
from extra_jax.config.loading import config_from_dict
from extra_jax.config.reference import all_settings
from extra_jax.config.yaml_tree import dump_yaml, parse_yaml
from extra_jax.errors import ExtraError
from extra_jax.files import read_text

Library = Literal["trl", "verl"]

_TRACKERS = ("tensorboard", "wandb", "trackio")
_SECTIONS = ("train.", "optim.", "rollout.", "model.", "tokenizer.", "run.")  # where their names are looked for
_NOT_THE_SAME = {"trl": {"max_steps", "path", "dtype"}, "verl": {"dtype", "temperature", "max_steps"}}


@dataclass(frozen=True)
class Converted:
    """A translated configuration.

    Attributes:
        tree: nested, valid once ``model`` is in it.
        left: their key and why it has no place in the tree.
    """

    tree: dict[str, Any]
    left: dict[str, str]

    def as_yaml(self) -> str:
        """The tree, and what is left as comments."""
        notes = "".join(f"# {key}: {why}\n" for key, why in self.left.items())
        return dump_yaml(self.tree) + (f"\n# Not translated:\n{notes}" if notes else "")


def convert(path: str | Path, library: Library) -> Converted:
    """Reads a YAML file of TRL (``GRPOConfig``, ``ModelConfig``, script arguments) or of verl.

    Raises:
        ExtraError: the file is no mapping, or a translated value is not valid here.
    """
    given = parse_yaml(read_text(path), str(path))
    if not isinstance(given, dict):
        raise ExtraError(f"{path}: the top level must be a mapping of settings, not {type(given).__name__}")
    flat = _flat(given) if library == "verl" else dict(given)
    keys, left = {}, {}
    names = {key.rpartition(".")[2]: key for key in _ours()}
    for their_key, value in flat.items():
        if their_key == "actor_rollout_ref.model.path":
            keys["model.path"] = value
            continue
        section, _, name = their_key.rpartition(".")
        if library == "verl" and section.startswith(("critic", "reward_model")):
            left[their_key] = "there is no critic and no reward model"
            continue
        known = TRL if library == "trl" else VERL
        same = None if name in _NOT_THE_SAME[library] and name not in known else names.get(name)
        key = known.get(name) or same
        if key is None:
            left[their_key] = "has no setting here"
            continue
        rule = _RULES.get((library, name))
        try:
            answer = rule(value, flat) if rule else value
        except (TypeError, ValueError, ZeroDivisionError):
            answer = _Left(f"its value {value!r} says nothing that {key} could be")
        if isinstance(answer, _Left):
            left[their_key] = f"{answer.why}; see {key}"
        else:
            keys[key] = answer
    tree = _nested(keys)
    config_from_dict({"model": {"path": "tiny-base"}, **tree}, f"{path}, translated")
    return Converted(tree, left)


def _ours() -> list[str]:
    """Keys in whose sections a name of theirs is looked for; of equal names the first section wins."""
    keys = [setting.key for setting in all_settings()]
    return [key for section in reversed(_SECTIONS) for key in keys if key.startswith(section)]


@dataclass(frozen=True)
class _Left:
    why: str


def _nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return tree


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _by_name(flat: Mapping[str, Any], name: str, otherwise: Any = None) -> Any:
    return next((value for key, value in flat.items() if key.rpartition(".")[2] == name), otherwise)


def _trackers(value: Any, _: Mapping[str, Any]) -> Any:
    asked = [value] if isinstance(value, str) else list(value or ())
    return [name for name in asked if name in _TRACKERS]


def _floats(value: Any, _: Mapping[str, Any]) -> float:
    return float(value)  # YAML reads 1e-6 as a text


def _group_or_none(value: Any, _: Mapping[str, Any]) -> Any:
    return {True: "group", False: "none"}[value] if isinstance(value, bool) else value


def _source(value: Any, _: Mapping[str, Any]) -> Any:
    files = value if isinstance(value, list) else [value]
    if len(files) > 1:
        return _Left("several files; join them into one")
    return files[0] if str(files[0]).endswith((".jsonl", ".parquet")) else f"hub:{files[0]}"


def _files(value: Any, flat: Mapping[str, Any]) -> Any:
    source = _source(value, flat)
    return source if isinstance(source, _Left) else {"source": source}


def _functions(value: Any, flat: Mapping[str, Any]) -> Any:
    names = value if isinstance(value, list) else [value]
    weights = _by_name(flat, "reward_weights") or [1.0] * len(names)
    if any("." in str(name) or "/" in str(name) for name in names):
        return _Left("name your functions as path/file.py:name")
    return [{"function": name, "weight": float(w)} for name, w in zip(names, weights, strict=True)]


def _loss_mode(value: Any, _: Mapping[str, Any]) -> Any:
    modes = {"token-mean": "dapo", "seq-mean-token-mean": "grpo", "seq-mean-token-sum-norm": "dr_grpo"}
    return modes.get(value, _Left(f"{value!r} is none of {', '.join(modes)}"))


def _estimator(value: Any, _: Mapping[str, Any]) -> Any:
    known = {"grpo": "grpo", "rloo": "rloo", "grpo_passk": "pass_at_k"}
    return known.get(value, _Left(f"{value!r} is none of {', '.join(known)}"))


def _beta(value: Any, flat: Mapping[str, Any]) -> float:
    return float(_by_name(flat, "kl_loss_coef", 0.001)) if _by_name(flat, "use_kl_loss", False) else 0.0


_LOOK: Callable[[Any, Any], _Left] = lambda value, _: _Left("counts something else here")  # noqa: E731

_RULES: dict[tuple[str, str], Callable[[Any, Mapping[str, Any]], Any]] = {
    ("trl", "learning_rate"): _floats,
    ("trl", "beta"): _floats,
    ("trl", "adam_epsilon"): _floats,
    ("trl", "dataset_name"): _source,
    ("trl", "generation_batch_size"): lambda value, flat: int(value) // int(flat.get("num_generations", 8)),
    ("trl", "per_device_train_batch_size"): _LOOK,
    ("trl", "gradient_accumulation_steps"): _LOOK,
    ("trl", "steps_per_generation"): _LOOK,
    ("trl", "num_train_epochs"): _LOOK,
    ("trl", "gradient_checkpointing"): lambda value, _: "full" if value else "none",
    ("trl", "bf16"): lambda value, _: "bfloat16" if value else "float32",
    ("trl", "vllm_importance_sampling_correction"): lambda value, flat: (
        flat.get("vllm_importance_sampling_mode", "sequence_mask") if value else None
    ),
    ("trl", "scale_rewards"): _group_or_none,
    ("trl", "report_to"): _trackers,
    ("trl", "log_completions"): lambda value, _: int(bool(value)),
    ("trl", "reward_funcs"): _functions,
    ("trl", "reward_weights"): lambda value, flat: (
        _functions(flat["reward_funcs"], flat)
        if "reward_funcs" in flat
        else _Left("there is no reward_funcs beside it")
    ),
    ("trl", "max_steps"): _LOOK,
    ("verl", "train_files"): _source,
    ("verl", "val_files"): _files,
    ("verl", "ppo_mini_batch_size"): lambda value, flat: int(_by_name(flat, "train_batch_size")) // int(value),
    ("verl", "loss_agg_mode"): _loss_mode,
    ("verl", "adv_estimator"): _estimator,
    ("verl", "norm_adv_by_std_in_grpo"): _group_or_none,
    ("verl", "use_kl_loss"): _beta,
    ("verl", "kl_loss_coef"): _beta,
    ("verl", "kl_loss_type"): lambda value, _: {"low_var_kl": "k3", "kl": "k1", "mse": "k2"}.get(value, value),
    ("verl", "lr"): _floats,
    ("verl", "logger"): _trackers,
    ("verl", "total_training_steps"): lambda value, _: _Left("null") if value is None else value,
}
