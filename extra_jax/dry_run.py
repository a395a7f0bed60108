"""``--dry-run``: what a configuration would do, in prompts and completions, before anything is compiled.

Reads the problems and the shape of the model, so a missing file, a bad row or an unknown preset is found at once. It
never imports jax, never needs a device and never touches the network.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from extra_jax.config import Config, DataConfig
from extra_jax.data.load import load_data
from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.model.config import Qwen3Config, model_folder, preset
from extra_jax.reward.rewards import Rewards, make_rewards

VERBS = ("train", "sft", "eval", "sample", "rollout", "exprl", "import-hf", "export-hf", "plan")
_USES_PROBLEMS = ("train", "sft", "rollout", "exprl")
_EVALUATES = ("train", "sft", "exprl", "eval")
_CONTEXT_LIMIT = Qwen3Config.max_position_embeddings
_LONG_RUN = 50  # steps from which a run without a checkpoint on the way is worth a warning

Facts = dict[str, str]
HeldOut = dict[str, list[Problem] | None]


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
    benchmarks = config.benchmarks if verb in _EVALUATES else {}
    held_out = {name: _load(data, e.seed, e.dir) for name, data in benchmarks.items()}
    facts = {"run directory": _run_dir(config)}
    if verb != "plan":  # which takes the shape of a model that is not on this machine from its name
        facts |= _model_facts(config)
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
    if verb in _EVALUATES:
        facts |= _eval_facts(config, verb, held_out)
    if verb == "sample":
        facts["completion"] = f"at most {config.rollout.max_completion_length:,} tokens, {_sampling(config)}"
    width = max(map(len, facts))
    lines = [f"{verb}: the configuration is valid", *(f"  {name:<{width}}  {value}" for name, value in facts.items())]
    return "\n".join(lines + [f"warning: {text}" for text in find_warnings(config, verb, train, held_out)])


def find_warnings(
    config: Config, verb: str, train: list[Problem] | None = None, held_out: HeldOut | None = None
) -> list[str]:
    """Settings that are allowed and probably not meant, one sentence each with the remedy."""
    warnings, e = [], config.eval
    if verb in ("train", "exprl", "rollout", "eval", "sample") and config.max_sequence_length > _CONTEXT_LIMIT:
        warnings.append(
            f"rollout.max_prompt_length + rollout.max_completion_length = {config.max_sequence_length:,} exceeds "
            f"Qwen3's {_CONTEXT_LIMIT:,} positions"
        )
    if verb in ("train", "exprl"):
        warnings += _train_warnings(config)
    if verb in _EVALUATES and config.benchmarks and e.temperature == 0 and e.num_generations > 1:
        warnings.append(f"eval.temperature=0: all {e.num_generations} samples of a problem are equal; use 1 sample")
    if verb == "sft" and config.sft.row_length > _CONTEXT_LIMIT:
        warnings.append(f"sft.row_length={config.sft.row_length:,} exceeds Qwen3's {_CONTEXT_LIMIT:,} positions")
    seen = {json.dumps(problem.prompt) for problem in train or ()}  # a chat cannot be hashed
    for name, problems in (held_out or {}).items():
        if shared := sum(json.dumps(problem.prompt) in seen for problem in problems or ()):
            warnings.append(
                f"{shared:,} of {len(problems or ()):,} held-out problems of {name} are also training problems; pass@k "
                "would measure memory: choose other held-out problems"
            )
    return warnings


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
        "reward": _rewards(config, config.data, r.max_completion_length, problems).describe(),
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
        facts[title] = f"{_problems(data, problems)}{amount}, "
        facts[title] += f"rewarded by {_rewards(config, data, length, problems).describe()}"
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


def _train_warnings(config: Config) -> Iterator[str]:
    t, r, o = config.train, config.rollout, config.optim
    if r.temperature == 0:
        yield "rollout.temperature=0: all completions of a prompt are equal, so every advantage is 0; use 1.0"
    if (r.top_p, r.top_k, r.min_p) != (1.0, 0, 0.0):
        yield (
            "rollout.top_p, top_k or min_p cut the distribution that the gradient is taken of; train with "
            "top_p=1 top_k=0 min_p=0 and keep them for eval"
        )
    if t.epsilon_high is not None and t.epsilon_high < t.epsilon:
        yield f"train.epsilon_high={t.epsilon_high:g} is below train.epsilon={t.epsilon:g}: good tokens clip first"
    if t.updates_per_step == 1 and t.delta is not None:
        yield "train.delta has no effect with one update a step: the ratio is 1"
    if make_rewards(config.reward, config.data, config.rollout.max_completion_length).constant:
        yield "reward.functions gives every verdict the same reward: every advantage is 0"
    updates = t.max_steps * t.updates_per_step
    if o.warmup_steps >= updates:
        yield f"optim.warmup_steps={o.warmup_steps:,} is not shorter than the run of {updates:,} optimizer updates"
    if config.checkpoint.every > t.max_steps >= _LONG_RUN:
        yield f"checkpoint.every={config.checkpoint.every:,}: the only checkpoint is the one after the last step"


def _load(data: DataConfig, seed: int, folder: str = "") -> list[Problem] | None:
    """The problems of a section; ``None`` for a hub data set, which would be downloaded."""
    return None if data.source.startswith("hub:") else load_data(data, seed, folder)


def _problems(data: DataConfig, problems: list[Problem] | None) -> str:
    if problems is None:
        return f"{data.source} (split {data.split}; not downloaded in a dry run)"
    split = "" if data.split == "train" else f" ({data.split})"
    return f"{_count(len(problems), 'problem')} of {data.source}{split}"


def _model_facts(config: Config) -> Facts:
    m, tokenizer = config.model, config.tokenizer.path
    if m.preset is not None:
        shape, origin = preset(m.preset), f"random weights of preset {m.preset}"
    else:
        assert m.path is not None  # a model has a preset or a path
        folder = model_folder(m.path)
        if not any(folder.glob("*.safetensors")):
            raise ExtraError(f"model.path={m.path}: no *.safetensors in this folder; give a Hugging Face model folder")
        shape, origin = Qwen3Config.from_folder(folder), m.path
    count = shape.num_parameters
    size = f"{count / 1e6:,.1f} M" if count >= 10_000_000 else f"{count:,}"
    described = f"{origin}, {size} parameters, {m.param_dtype} weights, {m.dtype} arithmetic, remat {m.remat}"
    if tokenizer in (None, "tiny"):
        return {"model": described}
    if not Path(tokenizer).expanduser().is_dir():
        raise ExtraError(f"tokenizer.path={tokenizer}: there is no such folder; download the model and give its folder")
    return {"model": described, "tokenizer": str(Path(tokenizer).expanduser())}


def _run_dir(config: Config) -> str:
    there = (Path(config.run.dir) / "config.yaml").exists()
    return f"{config.run.dir} ({'exists: the run in it would be used' if there else 'new'}), seed {config.run.seed}"


def _mesh(config: Config) -> str:
    axes = (("data", config.mesh.data), ("fsdp", config.mesh.fsdp), ("tensor", config.mesh.tensor))
    shape = " x ".join(f"{name} {'(all remaining devices)' if size == -1 else size}" for name, size in axes)
    return f"{shape}, several processes" if config.distributed.enabled else shape


def _sampling(config: Config) -> str:
    r = config.rollout
    return f"temperature {r.temperature:g}, top_p {r.top_p:g}, top_k {r.top_k}, min_p {r.min_p:g}"


def _rewards(config: Config, data: DataConfig, length: int, problems: list[Problem] | None) -> Rewards:
    """Refuses what the run would refuse; no worker starts."""
    rewards = make_rewards(config.reward, data, length)
    if problems is not None:
        rewards.check(problems)
    return rewards


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
