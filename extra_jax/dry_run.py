"""``--dry-run``: what a configuration would do, in prompts and completions, before anything is compiled.

Reads the problems, the tokenizer and the shape of the model and tries the graders, so that a bad row, a prompt that is
too long or answers that nobody can be rewarded for are found at once. It never imports jax, never needs a device, and
uses a network only to download a model that is named ``ORG/NAME``.
"""

import importlib.util
import math
import os
from contextlib import closing
from pathlib import Path

from extra_jax.config import Config, DataConfig, config_differences, load_config, may_change
from extra_jax.data.load import check_vocabulary, encode_prompts, encode_solutions, load_data, model_tokenizer
from extra_jax.data.problem import Problem
from extra_jax.dry_run_warnings import EVALUATES, HeldOut, find_warnings
from extra_jax.errors import ExtraError
from extra_jax.model.config import Qwen3Config, model_folder, preset
from extra_jax.reward.golds import check_problems
from extra_jax.reward.rewards import make_rewards
from extra_jax.telemetry.files import CONFIG_FILE, METRICS_FILE, local_run_dir
from extra_jax.telemetry.trackers import check_trackers

VERBS = ("train", "sft", "eval", "sample", "rollout", "exprl", "import-hf", "export-hf", "plan")
_USES_PROBLEMS = ("train", "sft", "rollout", "exprl")

Facts = dict[str, str]


def describe(config: Config, verb: str) -> str:
    """What ``verb`` would do with ``config``, as plain text of ``name  value`` lines and warnings.

    Args:
        config: A valid configuration.
        verb: One of ``VERBS``.

    Raises:
        ExtraError: a file or folder that the configuration names is missing or damaged, the problems do not load, or
            the verb lacks a section that it needs.
    """
    if verb == "eval" and not config.benchmarks:
        raise ExtraError(
            "there is nothing to evaluate on: give bench=aime24,math500, or set eval.data or eval.benchmarks"
        )
    stored = verb == "train" and config.reward.source == "judge"
    train = _load(config.data, config.run.seed) if verb in _USES_PROBLEMS and not stored else None
    e = config.eval
    benchmarks = config.benchmarks if verb in EVALUATES else {}
    held_out = {name: _load(data, e.seed, e.dir) for name, data in benchmarks.items()}
    check_trackers(config.logging.trackers if verb in ("train", "sft", "exprl") else ())
    facts, positions = {"run directory": _run_dir(config, trains=verb in ("train", "sft", "exprl"))}, math.inf
    # `plan` takes the shape of a model that is not on this machine from its name.
    if verb != "plan" or not config.model.path or Path(config.model.path).expanduser().exists():
        shape, origin = _shape(config, weights=verb != "plan")
        facts |= _model_facts(config, shape, origin)
        positions = shape.context_length
        if verb not in ("import-hf", "export-hf", "plan"):
            _check_lengths(config, shape, verb, train or [], [p for many in held_out.values() for p in many or ()])
    facts["mesh"] = _mesh(config)
    if stored:
        facts["store"] = _store(config)
    elif verb in _USES_PROBLEMS:
        facts["problems"] = _problems(config.data, train)
    if verb in ("rollout", "exprl"):
        facts |= _exprl_facts(config, verb, train)
    if verb in ("train", "exprl", "plan"):
        facts |= _train_facts(config, train)
    if verb == "sft":
        facts |= _sft_facts(config, train)
    if verb in EVALUATES:
        facts |= _eval_facts(config, verb, held_out)
    if verb == "sample":
        facts["completion"] = f"at most {config.rollout.max_completion_length:,} tokens, {_sampling(config)}"
    width = max(map(len, facts))
    lines = [f"{verb}: the configuration is valid", *(f"  {name:<{width}}  {value}" for name, value in facts.items())]
    warnings = find_warnings(config, verb, train, held_out, positions)
    return "\n".join(lines + [f"warning: {text}" for text in warnings])


def _train_facts(config: Config, problems: list[Problem] | None) -> Facts:
    t, r = config.train, config.rollout
    updates, row_length = t.max_steps * t.updates_per_step, config.packed_row_length
    rows = math.ceil(t.minibatch_size / max(1, row_length // config.max_sequence_length))
    passes = f" x {_count(t.num_iterations, 'pass', 'passes')}" if t.num_iterations > 1 else ""
    refill = ""
    if t.prompts_budget > t.prompts_per_step:
        refill = f", refilled with at most {t.prompts_budget - t.prompts_per_step:,} further prompts"
    return {
        "one step": f"{_count(t.prompts_per_step, 'prompt')} x {t.num_generations} generations = "
        f"{_count(t.completions_per_step, 'completion')}{refill}",
        "updates a step": f"{_count(t.num_minibatches, 'mini-batch', 'mini-batches')} of "
        f"{_count(t.minibatch_size, 'completion')}{passes} = {_count(t.updates_per_step, 'optimizer update')}",
        "one update": f"{_count(t.minibatch_size, 'completion')} packed into at most {_count(rows, 'row')} of "
        f"{row_length:,} tokens; {_count(t.micro_batch_rows, 'row')} a shard per forward and backward",
        "whole run": f"{_count(t.max_steps, 'step')}, {_count(updates, 'optimizer update')}, "
        f"{_count(t.max_steps * t.completions_per_step, 'completion')}"
        f"{_epochs(t.max_steps * t.prompts_per_step, problems)}",
        "lengths": f"prompt at most {r.max_prompt_length:,}, completion at most {r.max_completion_length:,} tokens; "
        f"at most {t.completions_per_step * r.max_completion_length:,} completion tokens a step",
        "sampling": _sampling(config),
        **_reward_facts("reward", config, config.data, r.max_completion_length, problems),
        "loss": _loss(config),
        "exploration": _exploration(config),
        **_length_facts(config, t.max_steps, updates),
    }


def _length_facts(config: Config, steps: int, updates: int) -> Facts:
    o, c = config.optim, config.checkpoint
    warmup = f"warm-up over {_count(o.warmup_steps, 'update')}, then " if o.warmup_steps else ""
    return {
        "learning rate": f"{o.learning_rate:g}, {warmup}{o.lr_scheduler_type} over {_count(updates, 'update')}",
        "checkpoints": f"every {_count(c.every, 'step')} and after step {steps:,}, the last {c.keep} kept",
    }


def _exprl_facts(config: Config, verb: str, problems: list[Problem] | None) -> Facts:
    e, j, n = config.exprl, config.judge, config.train.num_generations
    if problems and e.advantage == "self_distillation" and any(p.solution is None for p in problems):
        raise ExtraError("exprl.advantage=self_distillation needs a solution for every problem")
    facts = {"store": e.store or f"{config.run.dir}/store"}
    if verb == "rollout":
        amount = f"{n} of each problem" if problems is None else _count(n * len(problems), "completion")
        return facts | {"samples": f"{amount}, {_sampling(config)}"}
    if e.advantage == "self_distillation":
        return facts | {"teacher": "the initial model with the reference in its prompt"}
    asks = f"{j.model} at {j.endpoint}, {j.rubric}" if j.endpoint else "somebody else writes the scores"
    kind = f"{e.estimator} ({e.faithful})" if e.advantage == "process" else "group-relative"
    advantages = f"{e.advantage}, {kind}, {_count(e.steps_per_round, 'step')} a round"
    return facts | {"judge": asks, "advantages": advantages}


def _sft_facts(config: Config, problems: list[Problem] | None) -> Facts:
    s = config.sft
    examples = s.max_steps * s.batch_size
    return {
        "one step": f"{_count(s.batch_size, 'example')} = 1 optimizer update",
        "whole run": f"{_count(s.max_steps, 'step')}, {_count(examples, 'example')}{_epochs(examples, problems)}",
        "packing": f"prompt and solution in rows of {s.row_length:,} tokens (a longer example is refused); "
        f"{_count(s.micro_batch_rows, 'row')} a shard per forward and backward",
        **_length_facts(config, s.max_steps, s.max_steps),
    }


def _eval_facts(config: Config, verb: str, held_out: HeldOut) -> Facts:
    e, benchmarks = config.eval, config.benchmarks
    if not benchmarks:
        return {"evaluation": "none (eval.data is not set)"}
    facts, completions = {}, 0
    length = e.max_completion_length or config.rollout.max_completion_length
    for name, data in benchmarks.items():
        problems = held_out[name]
        amount = f", {_count(e.num_generations, 'sample')} each"
        if problems is not None:
            completions += len(problems) * e.num_generations
            amount = f" x {e.num_generations} samples = {_count(len(problems) * e.num_generations, 'completion')}"
        title = "evaluation" if len(benchmarks) == 1 else f"evaluation {name}"
        facts[title] = f"{_problems(data, problems)}{amount}"
        facts |= _reward_facts(f"{title} reward", config, data, length, problems)
    facts["eval sampling"] = f"at most {length:,} tokens, temperature {e.temperature:g}, top_p {e.top_p:g}"
    if verb == "eval":
        return facts
    steps = config.sft.max_steps if verb == "sft" else config.train.max_steps
    times, when = 2, "before the first and after the last step"
    if e.every:
        times, when = math.ceil(steps / e.every) + 1, f"every {_count(e.every, 'step')} and at the end"
    total = "" if None in held_out.values() else f": {_count(times * completions, 'completion')} in all"
    return facts | {"evaluated": f"{when}, {_count(times, 'time')}{total}"}


def _store(config: Config) -> str:
    """The rollouts that ``reward: judge`` trains on."""
    from extra_jax.judge.store import judges, rollout_parts

    folder = config.exprl.store or f"{config.run.dir}/store"
    return f"{folder}: {_count(len(rollout_parts(folder)), 'part')} of rollouts, {_count(len(judges(folder)), 'judge')}"


def _load(data: DataConfig, seed: int, folder: str = "") -> list[Problem] | None:
    """The problems of a section; ``None`` for a hub data set, which would be downloaded."""
    if data.source.startswith("hub:") and importlib.util.find_spec("datasets") is None:
        raise ExtraError(f"{data.source} needs the package `datasets`; install it with: pip install extra-jax[hub]")
    return None if data.source.startswith("hub:") else load_data(data, seed, folder)


def _problems(data: DataConfig, problems: list[Problem] | None) -> str:
    if problems is None:
        return f"{data.source} (split {data.split}; not downloaded in a dry run)"
    split = "" if data.split == "train" else f" ({data.split})"
    return f"{_count(len(problems), 'problem')} of {data.source}{split}"


def _shape(config: Config, weights: bool) -> tuple[Qwen3Config, str]:
    """The shape of the model, and where it comes from; ``weights``: they must be there, too."""
    m = config.model
    if m.preset is not None:
        return preset(m.preset), f"random weights of preset {m.preset}"
    assert m.path is not None  # a model has a preset or a path
    folder = model_folder(m.path)
    if weights and not any(folder.glob("*.safetensors")):
        raise ExtraError(f"model.path={m.path}: no *.safetensors in this folder; give a Hugging Face model folder")
    return Qwen3Config.from_folder(folder), m.path


def _model_facts(config: Config, shape: Qwen3Config, origin: str) -> Facts:
    m, tokenizer, count = config.model, config.tokenizer.path, shape.num_parameters
    size = f"{count / 1e6:,.1f} M" if count >= 10_000_000 else f"{count:,}"
    described = f"{origin}, {size} parameters, {m.param_dtype} weights, {m.dtype} arithmetic, remat {m.remat}"
    if tokenizer not in (None, "tiny") and not Path(tokenizer).expanduser().is_dir():
        raise ExtraError(f"tokenizer.path={tokenizer}: there is no such folder; download the model and give its folder")
    return {"model": described} if tokenizer in (None, "tiny") else {"model": described, "tokenizer": tokenizer}


def _check_lengths(
    config: Config, shape: Qwen3Config, verb: str, train: list[Problem], held_out: list[Problem]
) -> None:
    """Refuses problems that the tokenizer cannot write, that are too long, or that SFT has no solution of."""
    tokenizer = model_tokenizer(config)
    check_vocabulary(tokenizer, shape)
    if verb == "sft":
        encode_solutions(tokenizer, train, config.sft.row_length)
    for problems in (held_out,) if verb == "sft" else (train, held_out):
        encode_prompts(tokenizer, problems, config.rollout.max_prompt_length)


def _run_dir(config: Config, trains: bool) -> str:
    folder = local_run_dir(config.run.dir)
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ExtraError(f"run.dir={folder}: {there} is no folder, or not one that you may write into; choose another")
    known, metrics = (folder / CONFIG_FILE).exists(), folder / METRICS_FILE
    begun = any((folder / "checkpoints").glob("*")) or (metrics.exists() and metrics.stat().st_size > 0)
    if trains and known and begun:
        differences = config_differences(load_config(folder / CONFIG_FILE), config, may_change(config))
        if differences:
            raise ExtraError(
                f"run.dir={folder}: holds a run of another configuration:\n  "
                + "\n  ".join(differences)
                + "\nChoose another run.dir, or put these settings back"
            )
    return f"{folder} ({'exists: the run in it would be used' if known else 'new'}), seed {config.run.seed}"


def _mesh(config: Config) -> str:
    m = config.mesh
    fixed, emulated = math.prod(size for size in (m.data, m.fsdp, m.tensor) if size != -1), m.emulated_cpu_devices
    if emulated and (emulated % fixed or (-1 not in (m.data, m.fsdp, m.tensor) and fixed != emulated)):
        raise ExtraError(
            f"mesh: data={m.data}, fsdp={m.fsdp}, tensor={m.tensor} does not fit mesh.emulated_cpu_devices={emulated}; "
            "sizes multiply to the number of devices, and -1 takes what is left"
        )
    axes = (("data", config.mesh.data), ("fsdp", config.mesh.fsdp), ("tensor", config.mesh.tensor))
    shape = " x ".join(f"{name} {'(all remaining devices)' if size == -1 else size}" for name, size in axes)
    joined = {True: ", several processes", "auto": ", processes joined where a cluster is detected", False: ""}
    return shape + joined[config.distributed.enabled]


def _sampling(config: Config) -> str:
    r = config.rollout
    return f"temperature {r.temperature:g}, top_p {r.top_p:g}, top_k {r.top_k}, min_p {r.min_p:g}"


def _reward_facts(title: str, config: Config, data: DataConfig, length: int, problems: list[Problem] | None) -> Facts:
    """Refuses what the run would refuse."""
    with closing(make_rewards(config.reward, data, length)) as rewards:
        tried = check_problems(problems, rewards, most=10_000) if problems else ""
        return {title: rewards.describe() + (f"; {tried}" if tried else "")}


def _loss(config: Config) -> str:
    t = config.train
    high = t.epsilon if t.epsilon_high is None else t.epsilon_high
    weighted = ", times the ratio" if t.use_bias_correction_kl else ""
    kl = f"beta {t.beta:g} ({t.kl_estimator}{weighted}, with a reference model)" if t.beta > 0 else "no KL term"
    clip = f"ratio at most {high:g}" if t.loss_type == "cispo" else f"clip [1 - {t.epsilon:g}, 1 + {high:g}]"
    level = ", ratios of sequences (GSPO)" if t.importance_sampling_level == "sequence" else ""
    how = f"grpo, scaled by {t.scale_rewards}" if t.advantage.function == "grpo" else t.advantage.function
    return f"{t.loss_type}, advantages {how}, {clip}{level}, {kl}"


def _exploration(config: Config) -> str:
    e = config.explore
    if not e.active:
        return "none (explore.preset=grpo)"
    used = [name for name, settings in (*e.bonus.items(), *e.prompts.items()) if settings is not None]
    return f"preset {e.preset}: {', '.join(used)}; texts as {e.encoder.get('name', 'minilm')}"


def _epochs(used: int, problems: list[Problem] | None) -> str:
    return f", {used / len(problems):.2f} epochs over the problems" if problems else ""


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
