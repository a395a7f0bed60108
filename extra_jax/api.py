"""The front door in Python: the verbs of the command line as functions that take objects and return values.

``extra_jax/__init__.py`` exports what stands here; ``docs/howto/python.md`` is the tour.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from extra_jax.assemble import train as run_grpo
from extra_jax.checkpoint import restore_params
from extra_jax.config import Config, config_from_dict, load_config
from extra_jax.config.loading import apply_override
from extra_jax.data.problem import Problem, Prompt
from extra_jax.data.rows import Row, to_problem
from extra_jax.errors import ExtraError
from extra_jax.evaluate import Evaluator
from extra_jax.explore.door import PromptPolicy, Transform
from extra_jax.export import export_policy
from extra_jax.exprl.loop import exprl, train_on_scores
from extra_jax.learn.advantage import Estimator, make_advantage
from extra_jax.model.config import PRESETS, TINY_BASE, is_hub_name
from extra_jax.reward.door import register
from extra_jax.rollout.engine import Sampler
from extra_jax.rollout.types import Request, Rollouts, SamplingParams
from extra_jax.run import TrainResult
from extra_jax.runtime import Runtime, load_policy
from extra_jax.sft import sft as run_sft
from extra_jax.stages import Callback
from extra_jax.telemetry.files import CONFIG_FILE

Settings = str | Path | Mapping[str, Any] | Config
"""A YAML file, a nested mapping, or a ``Config``."""

_LENGTH_STEP = 64  # tokens; the room for prompts is a multiple of it, so that few programs are compiled


class History(Mapping[str, np.ndarray]):
    """The numbers of a run as arrays: ``history["reward"]`` is ``[n]`` f64, one for each step that has it.

    ``history.steps("reward")`` says which steps these are. Step 0 holds what was measured before the first update.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        self.rows = list(rows)
        names = dict.fromkeys(name for row in self.rows for name in row if name != "step")
        self._names = [name for name in names if any(self._has(row, name) for row in self.rows)]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(f"{name!r}; there are {', '.join(self._names)}")
        return np.array([row[name] for row in self.rows if self._has(row, name)], np.float64)

    def steps(self, name: str) -> np.ndarray:
        """``[n]`` int64, the finished steps after which ``self[name]`` was measured."""
        return np.array([row["step"] for row in self.rows if self._has(row, name)], np.int64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @staticmethod
    def _has(row: Mapping[str, Any], name: str) -> bool:
        return isinstance(row.get(name), int | float) and not isinstance(row[name], bool)


@dataclass(frozen=True)
class Completions:
    """``P`` prompts with ``n`` completions each; every field is ``[P][n]``.

    Attributes:
        texts: without special tokens.
        tokens: ``[length]`` int32, the stop token included.
        logprobs: ``[length]`` f32, log-probability of each token under the sampling distribution (nats).
        entropies: ``[length]`` f32 nats, of the full distribution at temperature 1 before the token was drawn.
        stop_reasons: ``stop_token``, ``stop_string`` or ``length``.
    """

    texts: list[list[str]]
    tokens: list[list[np.ndarray]]
    logprobs: list[list[np.ndarray]]
    entropies: list[list[np.ndarray]]
    stop_reasons: list[list[str]]


class Policy:
    """A model with its parameters, its tokenizer and its place on the devices.

    Args:
        runtime: what does not change in training.
        params: in the training layout.
    """

    def __init__(self, runtime: Runtime, params: nnx.State):
        self.runtime, self.params = runtime, params
        self._weights: nnx.State | None = None
        self._samplers: dict[tuple[SamplingParams, int], Sampler] = {}

    @property
    def tokenizer(self) -> Any:
        return self.runtime.tokenizer

    def generate(
        self,
        prompts: str | Sequence[str | Sequence[Mapping[str, str]]],
        n: int = 1,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        max_completion_length: int | None = None,
        stop_strings: Sequence[str] = (),
        seed: int = 0,
    ) -> Completions:
        """Draws completions. The same arguments give the same tokens on any number of devices.

        Args:
            prompts: texts, or chats of ``{"role", "content"}`` messages.
            n: completions of each.
            temperature: 0 is greedy.
            top_p, top_k, min_p: filters; 1, 0 and 0 are off.
            max_completion_length: tokens; default: ``rollout.max_completion_length``.
            stop_strings: a completion ends with the token that completes one of them.
            seed: of the draws, from 0.

        Raises:
            ExtraError: no prompts, or fewer than one completion.
        """
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        if not asked or n < 1:
            raise ExtraError(f"generate() was given {len(asked)} prompts and n={n}; it needs at least one of each")
        ids = [self.tokenizer.encode_prompt(_prompt(prompt)) for prompt in asked]
        longest = max_completion_length or self.runtime.config.rollout.max_completion_length
        params = SamplingParams(temperature, top_p, top_k, min_p, longest, tuple(stop_strings))
        sampler = self._sampler(params, -(-max(map(len, ids)) // _LENGTH_STEP) * _LENGTH_STEP)
        if self._weights is None:
            self._weights = self.runtime.rollout_weights(self.params)
        requests = [Request(prompt, n, index * n) for index, prompt in enumerate(ids)]
        # a step is an argument of the programs, but a seed is a constant of theirs, which would be compiled anew
        return _completions(sampler.generate(self._weights, requests, seed), self.runtime.decode, n)

    def _sampler(self, params: SamplingParams, max_prompt_length: int) -> Sampler:
        """The sampler for these settings, whose programs are compiled once."""
        key = params, max_prompt_length
        if key not in self._samplers:
            config = self.runtime.config
            rollout = {"max_prompt_length": max_prompt_length, "max_completion_length": params.max_completion_length}
            config = config.model_copy(update={"rollout": config.rollout.model_copy(update=rollout)})
            self._samplers[key] = replace(self.runtime, config=config).sampler(
                params, stream="generate", seed=0, training=False
            )
        return self._samplers[key]

    def export(self, folder: str | Path) -> Path:
        """Writes a Hugging Face folder that ``transformers`` loads."""
        export_policy(self.runtime, self.params, Path(folder))
        return Path(folder)


@dataclass(frozen=True)
class TrainedRun:
    """What came of a training.

    Attributes:
        history: the numbers of every step, evaluations included.
        policy: at the end.
        directory: ``run.dir``: checkpoints, rollouts, evaluations, report and export.
        step: finished steps.
    """

    history: History
    policy: Policy
    directory: Path
    step: int

    def export(self, folder: str | Path) -> Path:
        """Writes the policy as a Hugging Face folder."""
        return self.policy.export(folder)


def load(source: str | Path, **sections: Mapping[str, Any]) -> Policy:
    """A policy from a Hugging Face folder, from the newest checkpoint of a run, or of random weights.

    Args:
        source: a model folder, ``ORG/NAME`` of the Hugging Face hub, a run directory, ``tiny-base`` (the small model of
            the package), or a size such as ``0.6B`` or ``tiny``, which gives *random* weights.
        **sections: of the configuration, e.g. ``model={"dtype": "float32"}``, ``mesh={"tensor": 2}``.

    Raises:
        ExtraError: there is nothing of this name.
    """
    folder = Path(source).expanduser()
    if (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file():
        saved = load_config(folder / CONFIG_FILE)
        config = _settings(saved, {f"{s}.{k}": v for s, keys in sections.items() for k, v in keys.items()})
        runtime, params = load_policy(config)
        return Policy(runtime, restore_params(params, config, folder)[1])
    is_model = folder.is_dir() or str(source) == TINY_BASE or is_hub_name(str(source))
    if not is_model and str(source) not in PRESETS:
        raise ExtraError(
            f"{source}: neither a Hugging Face folder nor a run directory. Download the model into a folder of this "
            f"name, or load one of {TINY_BASE} (trained, small) and {', '.join(PRESETS)} (random weights)"
        )
    origin = {"path": str(source)} if is_model else {"preset": str(source)}
    tree = {name: dict(keys) for name, keys in sections.items()}
    tree["model"] = {**origin, **tree.get("model", {})}
    return Policy(*load_policy(config_from_dict(tree, "load()")))


def train(
    config: Settings,
    overrides: Mapping[str, Any] | None = None,
    *,
    problems: Sequence[Problem | Mapping[str, Any]] | None = None,
    rewards: Sequence[str | Callable[..., Any] | Mapping[str, Any]] | None = None,
    advantage: Estimator | None = None,
    explore: Sequence[Transform | PromptPolicy] | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainedRun:
    """GRPO, the verb ``train``. Continues the run that is in ``run.dir``.

    What is given as an object takes the place of what ``config`` names; a run that is continued needs the same objects.

    Args:
        config: a YAML file, a mapping or a ``Config``.
        overrides: ``{"train.max_steps": 20}``.
        problems: to train on, instead of ``data``: ``Problem``, or rows as a file has them (ours, TRL's, verl's);
            further columns reach reward functions.
        rewards: names, functions, or ``{"function": ..., "weight": ..., "args": ...}``
            (``docs/howto/own-reward.md``).
        advantage: an estimator, see ``docs/howto/own-advantage.md``.
        explore: transforms and prompt policies, see ``docs/howto/own-bonus.md``.
        callbacks: each looks at a step before its update and returns further metrics.

    Raises:
        ExtraError: bad input, found before the first step wherever possible.
    """
    settings = _settings(config, overrides)
    if rewards is not None:
        settings = _settings(settings, {"reward.functions": [_reward(entry) for entry in rewards]})
    if settings.reward.source == "judge":
        own = {"problems": problems, "advantage": advantage, "explore": explore or None, "callbacks": callbacks or None}
        if ignored := [name for name, value in own.items() if value is not None]:
            raise ExtraError(f"train() on judge scores makes no use of {' and '.join(ignored)}; leave it out")
        return _finished(train_on_scores(settings))
    return _finished(
        run_grpo(
            settings,
            problems=None
            if problems is None
            else [_problem(row, number) for number, row in enumerate(problems, start=1)],
            advantage=None if advantage is None else make_advantage(settings, advantage),
            explore=explore,
            callbacks=callbacks,
        )
    )


def sft(config: Settings, overrides: Mapping[str, Any] | None = None) -> TrainedRun:
    """Fine-tuning on reference solutions, the verb ``sft``."""
    return _finished(run_sft(_settings(config, overrides)))


def train_exprl(config: Settings, overrides: Mapping[str, Any] | None = None) -> TrainedRun:
    """Rounds of sampling, judging and learning, the verb ``exprl``."""
    return _finished(exprl(_settings(config, overrides)))


def evaluate(policy: Policy, data: Mapping[str, Any] | str, n: int = 1, **settings: Any) -> dict[str, float]:
    """Measures a policy on problems, in a folder that is thrown away.

    Args:
        policy: whose parameters.
        data: a source (``"countdown"``, a file) or a section of data, e.g. ``{"source": "chain", "limit": 64}``.
        n: completions of each problem; unbiased pass@k for k up to n.
        **settings: of ``eval``, e.g. ``temperature``, ``seed``.

    Returns:
        ``pass@1``, ``pass@2``, ... with their intervals, length and truncation.
    """
    section = {"source": data} if isinstance(data, str) else dict(data)
    measured = {"data": section, "num_generations": n, "benchmarks": {}, **settings}
    config = _settings(policy.runtime.config, {"eval": measured})
    with tempfile.TemporaryDirectory() as folder:
        evaluator = Evaluator(replace(policy.runtime, config=config), Path(folder))
        try:
            metrics = evaluator(policy.params, 0)
        finally:
            evaluator.close()
    return {name.removeprefix("eval_"): value for name, value in metrics.items()}


def _settings(config: Settings, overrides: Mapping[str, Any] | None = None) -> Config:
    """A configuration with ``key.sub`` overrides, validated as a whole."""
    given = [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()]
    if isinstance(config, str | Path):
        return load_config(config, given)
    tree = config.model_dump(mode="json") if isinstance(config, Config) else json.loads(json.dumps(config))
    for override in given:
        apply_override(tree, override)
    return config_from_dict(tree)


def _reward(entry: str | Callable[..., Any] | Mapping[str, Any]) -> Any:
    """An entry of ``reward.functions``; a function is registered under its name."""
    if isinstance(entry, Mapping):
        function = entry["function"]
        return {**entry, "function": register(function) if callable(function) else function}
    return register(entry) if callable(entry) else entry


def _problem(row: Problem | Mapping[str, Any], number: int) -> Problem:
    return row if isinstance(row, Problem) else to_problem(Row("problems", number, row), "problems")


def _prompt(prompt: str | Sequence[Mapping[str, str]]) -> Prompt:
    return prompt if isinstance(prompt, str) else tuple(prompt)


def _completions(rollouts: Rollouts, decode: Callable[[Rollouts], list[str]], n: int) -> Completions:
    def table(values: Sequence[Any]) -> list[list[Any]]:
        return [list(values[start : start + n]) for start in range(0, len(values), n)]

    rows, lengths = range(len(rollouts)), rollouts.lengths
    return Completions(
        texts=table(decode(rollouts)),
        tokens=table([rollouts.completion_ids(row) for row in rows]),
        logprobs=table([rollouts.logprobs[row, : lengths[row]] for row in rows]),
        entropies=table([rollouts.entropies[row, : lengths[row]] for row in rows]),
        stop_reasons=table([str(reason) for reason in rollouts.stop_reasons]),
    )


def _finished(result: TrainResult) -> TrainedRun:
    return TrainedRun(History(result.history), Policy(result.runtime, result.params), result.run_dir, result.step)
