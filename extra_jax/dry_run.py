"""``--dry-run``: what a configuration would do, in prompts and completions, before anything is compiled.

Reads the problems and the shape of the model, so a missing file, a bad row or an unknown preset is found here. Never
imports jax, never needs a device and never touches the network.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import extra_jax
from extra_jax.config import Config, DataConfig
from extra_jax.data.fetch import located
from extra_jax.data.problem import Problem
from extra_jax.data.sources import load_problems
from extra_jax.errors import ExtraError
from extra_jax.model.config import Qwen3Config, preset

CONTEXT_LIMIT = 40960
"""``max_position_embeddings`` of Qwen3."""

TINY_BASE = "tiny-base"
VERBS = ("train", "sft", "eval", "sample", "rollout", "exprl", "import-hf", "export-hf", "plan")
_USES_PROBLEMS = ("train", "sft", "rollout", "exprl")
_EVALUATES = ("train", "sft", "exprl", "eval")

_LONG_RUN = 50
"""Steps from which a run without an intermediate checkpoint is worth a warning."""

Fact = tuple[str, str]
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
    held_out = _held_out(config) if verb in _EVALUATES else {}
    facts: list[Fact] = [("run directory", _run_dir(config)), ("mesh", _mesh(config))]
    if verb != "plan":  # which takes the shape of a model that is not here from its name
        facts[1:1] = _model_facts(config)
    if stored:
        facts.append(("store", _store(config)))
    elif verb in _USES_PROBLEMS:
        facts.append(("problems", _problems(config.data, train)))
    if verb in ("rollout", "exprl"):
        facts += _exprl_facts(config, verb, train)
    if verb in ("train", "exprl", "plan"):
        facts += _train_facts(config, train)
    if verb == "sft":
        facts += _sft_facts(config, train)
    if verb in _EVALUATES:
        facts += _eval_facts(config, verb, held_out)
    if verb == "sample":
        facts.append(("completion", f"at most {config.rollout.max_completion_length:,} tokens, {_sampling(config)}"))
    width = max(len(name) for name, _ in facts)
    lines = [f"{verb}: the configuration is valid", *(f"  {name:<{width}}  {value}" for name, value in facts)]
    return "\n".join(lines + [f"warning: {text}" for text in warnings_of(config, verb, train, held_out)])


def warnings_of(
    config: Config, verb: str, train: list[Problem] | None = None, held_out: HeldOut | None = None
) -> list[str]:
    """Settings that are allowed and probably not meant, one sentence each with the remedy."""
    found = list(_rollout_warnings(config)) if verb in ("train", "exprl", "rollout", "eval", "sample") else []
    if verb in ("train", "exprl"):
        found += _train_warnings(config)
    e = config.eval
    if verb in _EVALUATES and config.benchmarks and e.temperature == 0 and e.num_generations > 1:
        found.append(f"eval.temperature=0: all {e.num_generations} samples of a problem are equal; use 1 sample")
    if verb == "sft" and config.sft.row_length > CONTEXT_LIMIT:
        found.append(f"sft.row_length={config.sft.row_length:,} exceeds Qwen3's {CONTEXT_LIMIT:,} positions")
    seen = {problem.prompt for problem in train or ()}
    for name, problems in (held_out or {}).items():
        if shared := sum(problem.prompt in seen for problem in problems or ()):
            found.append(
                f"{shared:,} of {len(problems or ()):,} held-out problems of {name} are also training problems; pass@k "
                "would measure memory: choose other held-out problems"
            )
    return found


def _train_facts(config: Config, problems: list[Problem] | None) -> list[Fact]:
    t, r = config.train, config.rollout
    longest = t.completions_per_step * r.max_completion_length
    passes = f" x {_count(t.num_iterations, 'pass', 'passes')}" if t.num_iterations > 1 else ""
    total = t.max_steps * t.completions_per_step
    refill = ""
    if t.prompts_budget > t.prompts_per_step:
        refill = f", refilled with at most {t.prompts_budget - t.prompts_per_step:,} further prompts"
    facts = [
        (
            "one step",
            f"{_count(t.prompts_per_step, 'prompt')} x {t.num_generations} generations = "
            f"{_count(t.completions_per_step, 'completion')}{refill}",
        ),
        (
            "updates a step",
            f"{_count(t.num_minibatches, 'mini-batch', 'mini-batches')} of {_count(t.minibatch_size, 'completion')}"
            f"{passes} = {_count(t.updates_per_step, 'optimizer update')}",
        ),
        ("one update", _packing(config)),
        (
            "whole run",
            f"{_count(t.max_steps, 'step')}, {_count(t.max_steps * t.updates_per_step, 'optimizer update')}, "
            f"{_count(total, 'completion')}{_epochs(t.max_steps * t.prompts_per_step, problems)}",
        ),
        (
            "lengths",
            f"prompt at most {r.max_prompt_length:,}, completion at most {r.max_completion_length:,} tokens; "
            f"at most {longest:,} completion tokens a step",
        ),
        ("sampling", _sampling(config)),
        ("grader", _grader(config, config.data)),
        ("loss", _loss(config)),
        ("exploration", _exploration(config)),
        ("learning rate", _schedule(config, t.max_steps * t.updates_per_step)),
    ]
    return [*facts, ("checkpoints", _checkpoints(config, t.max_steps))]


def _store(config: Config) -> str:
    """The rollouts that ``reward: judge`` trains on."""
    from extra_jax.judge.store import judges, rollout_shards

    folder = config.exprl.store or f"{config.run.dir}/store"
    return (
        f"{folder}: {_count(len(rollout_shards(folder)), 'shard')} of rollouts, {_count(len(judges(folder)), 'judge')}"
    )


def _exprl_facts(config: Config, verb: str, problems: list[Problem] | None) -> list[Fact]:
    e, j, n = config.exprl, config.judge, config.train.num_generations
    if problems and e.advantage == "self_distillation" and any(p.solution is None for p in problems):
        raise ExtraError("exprl.advantage=self_distillation needs a solution for every problem")
    facts = [("store", e.store or f"{config.run.dir}/store")]
    if verb == "rollout":
        amount = f"{n} of each problem" if problems is None else _count(n * len(problems), "completion")
        return [*facts, ("samples", f"{amount}, {_sampling(config)}")]
    if e.advantage == "self_distillation":
        return [*facts, ("teacher", "the initial model with the reference in its prompt")]
    asks = f"{j.model} at {j.endpoint}, {j.rubric}" if j.endpoint else "somebody else writes the scores"
    kind = f"{e.estimator} ({e.faithful})" if e.advantage == "process" else "group-relative"
    return [
        *facts,
        ("judge", asks),
        ("advantages", f"{e.advantage}, {kind}, {_count(e.steps_per_round, 'step')} a round"),
    ]


def _sft_facts(config: Config, problems: list[Problem] | None) -> list[Fact]:
    s = config.sft
    return [
        ("one step", f"{_count(s.batch_size, 'example')} = 1 optimizer update"),
        (
            "whole run",
            f"{_count(s.max_steps, 'step')}, {_count(s.max_steps * s.batch_size, 'example')}"
            f"{_epochs(s.max_steps * s.batch_size, problems)}",
        ),
        (
            "packing",
            f"prompt and solution in rows of {s.row_length:,} tokens (a longer example is refused); "
            f"{_count(s.micro_batch_rows, 'row')} a shard per forward and backward",
        ),
        ("learning rate", _schedule(config, s.max_steps)),
        ("checkpoints", _checkpoints(config, s.max_steps)),
    ]


def _eval_facts(config: Config, verb: str, held_out: HeldOut) -> list[Fact]:
    e, benchmarks = config.eval, config.benchmarks
    if not benchmarks:
        return [("evaluation", "none (eval.data is not set)")]
    facts = []
    for name, data in benchmarks.items():
        once, problems = _problems(data, held_out[name]), held_out[name]
        if problems is not None:
            once += f" x {e.num_generations} samples = {_count(len(problems) * e.num_generations, 'completion')}"
        else:
            once += f", {_count(e.num_generations, 'sample')} each"
        facts.append(("evaluation", f"{once}, graded by {_grader(config, data)}"))
    length = e.max_completion_length or config.rollout.max_completion_length
    facts.append(("eval sampling", f"at most {length:,} tokens, temperature {e.temperature:g}, top_p {e.top_p:g}"))
    if verb == "eval":
        return facts
    steps = config.sft.max_steps if verb == "sft" else config.train.max_steps
    times = 2 if e.every == 0 else math.ceil(steps / e.every) + 1
    when = (
        "before the first and after the last step"
        if e.every == 0
        else f"every {_count(e.every, 'step')} and at the end"
    )
    known = [problems for problems in held_out.values() if problems is not None]
    count = times * sum(map(len, known)) * e.num_generations
    total = f": {_count(count, 'completion')} in all" if len(known) == len(held_out) else ""
    return [*facts, ("evaluated", f"{when}, {_count(times, 'time')}{total}")]


def _rollout_warnings(config: Config) -> Iterator[str]:
    longest = config.max_sequence_length
    if longest > CONTEXT_LIMIT:
        yield (
            f"rollout.max_prompt_length + rollout.max_completion_length = {longest:,} exceeds Qwen3's "
            f"{CONTEXT_LIMIT:,} positions"
        )


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
    if len(set(config.reward.values.values())) == 1:
        yield "reward.values gives every verdict the same reward: every advantage is 0"
    updates = t.max_steps * t.updates_per_step
    if o.warmup_steps >= updates:
        yield f"optim.warmup_steps={o.warmup_steps:,} is not shorter than the run of {updates:,} optimizer updates"
    if config.checkpoint.every > t.max_steps >= _LONG_RUN:
        yield f"checkpoint.every={config.checkpoint.every:,}: the only checkpoint is the one after the last step"


def _load(data: DataConfig, seed: int, folder: str = "") -> list[Problem] | None:
    """The problems of a section; ``None`` for a hub data set, which would be downloaded."""
    if data.source.startswith("hub:"):
        return None
    return load_problems(
        located(data.source, folder),
        split=data.split,
        seed=seed,
        limit=data.limit,
        prompt_template=data.prompt_template,
        system=data.system,
        columns=data.columns or None,
        **data.task,
    )


def _held_out(config: Config) -> HeldOut:
    return {name: _load(data, config.eval.seed, config.eval.dir) for name, data in config.benchmarks.items()}


def _problems(data: DataConfig, problems: list[Problem] | None) -> str:
    if problems is None:
        return f"{data.source} (split {data.split}; not downloaded in a dry run)"
    return f"{_count(len(problems), 'problem')} of {data.source}" + (
        "" if data.split == "train" else f" ({data.split})"
    )


def _model_facts(config: Config) -> list[Fact]:
    m = config.model
    if m.preset is not None:
        shape, origin = preset(m.preset), f"random weights of preset {m.preset}"
    else:
        folder = _packaged_model() if m.path == TINY_BASE else _folder("model.path", m.path)
        if not any(folder.glob("*.safetensors")):
            raise ExtraError(f"model.path={m.path}: no *.safetensors in this folder; give a Hugging Face model folder")
        shape, origin = Qwen3Config.from_folder(folder), m.path
    facts = [
        (
            "model",
            f"{origin}, {_millions(shape)} parameters, {m.param_dtype} weights, {m.dtype} arithmetic, remat {m.remat}",
        )
    ]
    if config.tokenizer.path not in (None, "tiny"):
        facts.append(("tokenizer", str(_folder("tokenizer.path", config.tokenizer.path))))
    return facts


def _millions(shape: Qwen3Config) -> str:
    count = shape.num_parameters
    return f"{count / 1e6:,.1f} M" if count >= 10_000_000 else f"{count:,}"


def _packaged_model() -> Path:
    folder = Path(extra_jax.__file__).parent / "assets" / "tiny_base"
    if not folder.is_dir():
        raise ExtraError(f"model.path={TINY_BASE}: {folder} is missing from this installation; reinstall extra-jax")
    return folder


def _folder(key: str, path: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ExtraError(f"{key}={path}: there is no such folder; download the model and give its folder")
    return folder


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


def _grader(config: Config, data: DataConfig) -> str:
    if config.reward.grader != "auto":
        return config.reward.grader
    return f"{data.source if data.source in ('countdown', 'chain') else 'math'} (auto)"


def _loss(config: Config) -> str:
    t = config.train
    high = t.epsilon if t.epsilon_high is None else t.epsilon_high
    kl = f"beta {t.beta:g} ({t.kl_estimator}, with a reference model)" if t.beta > 0 else "no KL term"
    clip = f"ratio at most {high:g}" if t.loss_type == "cispo" else f"clip [1 - {t.epsilon:g}, 1 + {high:g}]"
    level = ", ratios of sequences (GSPO)" if t.importance_sampling_level == "sequence" else ""
    return f"{t.loss_type}, advantages scaled by {t.scale_rewards}, {clip}{level}, {kl}"


def _exploration(config: Config) -> str:
    e = config.explore
    if not e.active:
        return "none (explore.preset=grpo)"
    used = [name for name, settings in (*e.bonus.items(), *e.prompts.items()) if settings is not None]
    return f"preset {e.preset}: {', '.join(used)}; texts as {e.encoder.get('name', 'minilm')}"


def _schedule(config: Config, updates: int) -> str:
    o = config.optim
    warmup = f"warm-up over {_count(o.warmup_steps, 'update')}, then " if o.warmup_steps else ""
    return f"{o.learning_rate:g}, {warmup}{o.lr_scheduler_type} over {_count(updates, 'update')}"


def _checkpoints(config: Config, steps: int) -> str:
    c = config.checkpoint
    return f"every {_count(c.every, 'step')} and after step {steps:,}, the last {c.keep} kept"


def _packing(config: Config) -> str:
    """How the completions of one optimizer update become rows; the true number of rows depends on their lengths."""
    t, longest = config.train, config.max_sequence_length
    row_length = config.packed_row_length
    rows = math.ceil(t.minibatch_size / max(1, row_length // longest))
    return (
        f"{_count(t.minibatch_size, 'completion')} packed into at most {_count(rows, 'row')} of {row_length:,} tokens; "
        f"{_count(t.micro_batch_rows, 'row')} a shard per forward and backward"
    )


def _epochs(used: int, problems: list[Problem] | None) -> str:
    return f", {used / len(problems):.2f} epochs over the problems" if problems else ""


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
