"""Rollouts out: samples of a policy with everything that judging and training on them later will need.

Ids and file names follow from policy, round and problem, so a killed collection goes on and a repeated one finds its
work done.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import jax
from etils import epath
from flax import nnx

from extra_jax.checkpoint import restore_params
from extra_jax.config import Config
from extra_jax.data.load import load_data
from extra_jax.data.problem import Problem, prompt_text
from extra_jax.errors import ExtraError
from extra_jax.judge import store
from extra_jax.judge.segment import Segmenter, TokenBytes
from extra_jax.model.fingerprint import fingerprint
from extra_jax.parallel.processes import agree, filled_share, is_main, on_main
from extra_jax.reward.rewards import make_rewards
from extra_jax.rollout.engine import Progress as OnProgress
from extra_jax.rollout.types import Request, Rollouts
from extra_jax.run_dir import open_run
from extra_jax.runtime import Runtime, load_policy, sampling_params
from extra_jax.telemetry.progress import Progress

# Rollouts of one file. With more of them a kill loses more; with fewer the sampler waits more often for the longest.
_PART = 2048


class Collector:
    """Samples rollouts into a store.

    Args:
        policy: whose weights come with each call.
        problems: all problems of the run; every prompt is encoded here, once.

    Raises:
        ExtraError: the store holds rollouts that were drawn with other settings.
    """

    def __init__(self, policy: Runtime, problems: Sequence[Problem]):
        config = policy.config
        self.policy, self.folder = policy, store_folder(config)
        self.prompts = policy.encode_prompts(problems)
        self.sampler = policy.sampler(sampling_params(config), stream="exprl")
        opens, longest = policy.opens_thinking(self.prompts.values()), config.rollout.max_completion_length
        self.rewards = make_rewards(config.reward, config.data, longest, prompt_opens_thinking=opens)
        self.rewards.check(problems)
        self.segmenter = Segmenter(config.exprl.segments, TokenBytes(policy.tokenizer.token_bytes()))
        on_main(lambda: store.settle(self.folder, store.SAMPLING_FILE, sampling_facts(config)))

    def __call__(
        self, params: nnx.State, problems: Sequence[Problem], round_: int, progress: OnProgress | None = None
    ) -> str:
        """Samples ``train.num_generations`` completions of each problem; what is in the store already is not repeated.

        All processes call it together with the same problems and write to the same store.

        Args:
            problems: of all processes.
            round_: part of the identity of every draw.

        Returns:
            The fingerprint of the policy, which is part of every rollout's id.
        """
        name = fingerprint(params, self.policy.mesh)
        n = self.policy.config.train.num_generations
        groups = group_ids(problems, round_, name)
        size = max(1, _PART // n)  # of nothing that may change when a collection is continued
        weights: nnx.State | None = None
        for part, start in enumerate(range(0, len(problems), size)):
            if self._is_done(round_, name, part):
                continue
            if weights is None:
                weights = self.policy.rollout_weights(params)
            chunk = range(start, min(start + size, len(problems)))
            local = [chunk[i] for i in filled_share(len(chunk))]
            requests = [Request(self.prompts[problems[i].uid], n, i * n) for i in local]
            rollouts = self.sampler.generate(weights, requests, round_, progress)
            rows = self._rows([problems[i] for i in local], [groups[i] for i in local], rollouts, round_, name)
            by_prompt = [rows[i : i + n] for i in range(0, len(rows), n)]
            store.write_rollouts(self.folder, _part_name(round_, name, part, jax.process_index()), by_prompt)
        return name

    def close(self) -> None:
        self.rewards.close()

    def _is_done(self, round_: int, name: str, part: int) -> bool:
        """Whether every process has written its share; process 0 looks, so that all agree."""
        names = (_part_name(round_, name, part, process) for process in range(jax.process_count()))
        done = is_main() and all((self.folder / store.ROLLOUTS / f"{n}.parquet").exists() for n in names)
        return bool(agree(done))

    def _rows(
        self, problems: Sequence[Problem], groups: Sequence[str], rollouts: Rollouts, round_: int, name: str
    ) -> list[dict[str, Any]]:
        texts = self.policy.decode(rollouts)
        answered = [problems[i] for i in rollouts.prompt_index]
        grades = self.rewards(answered, texts, [rollouts.completion_ids(row) for row in range(len(rollouts))]).grades
        n, rows = self.policy.config.train.num_generations, []
        for row, (text, grade) in enumerate(zip(texts, grades, strict=True)):
            problem, length = problems[rollouts.prompt_index[row]], rollouts.lengths[row]
            ids = rollouts.completion_ids(row)
            segments = self.segmenter.cut(ids)
            if segments.text != text:
                raise ExtraError(
                    f"problem {problem.uid}: the tokenizer's text of a completion is not that of its tokens joined "
                    f"({text[:40]!r}, {segments.text[:40]!r}), so segments cannot be mapped to tokens. Use a "
                    "byte-level tokenizer such as Qwen's"
                )
            group, sample = groups[rollouts.prompt_index[row]], int(rollouts.rollout_ids[row]) % n
            rows.append(
                {
                    "rollout_id": f"{group}/{sample}",
                    "group": group,
                    "round": round_,
                    "uid": problem.uid,
                    "sample": sample,
                    "policy": name,
                    "source": problem.source,
                    "domain": str(problem.meta.get("ability") or ""),
                    "problem": prompt_text(problem.prompt, only="user").rstrip("\n"),
                    "reference": problem.solution,
                    "answer": problem.answer,
                    "prompt_ids": rollouts.prompt_ids[row],
                    "token_ids": ids,
                    "logprobs": rollouts.logprobs[row, :length],
                    "log_kept": rollouts.filter_logprob_mass[row, :length],
                    "entropies": rollouts.entropies[row, :length],
                    "text": text,
                    "segment_tokens": segments.tokens,
                    "segment_chars": segments.characters,
                    "stop_reason": str(rollouts.stop_reasons[row]),
                    "verdict": grade.verdict.value,
                }
            )
        return rows


def rollout(config: Config) -> epath.Path:
    """The ``rollout`` verb: samples every problem of ``data`` from the newest checkpoint, or from the initial model.

    Returns:
        The store.
    """
    policy, params = load_policy(config)
    step, params = restore_params(params, config, open_run(config, concerns=("model", "tokenizer")))
    problems = load_data(config.data, config.run.seed)
    with closing(Collector(policy, problems)) as collector, Progress(step, is_main(), step) as progress:
        collector(params, problems, step, progress.rollouts)
    return collector.folder


def store_folder(config: Config) -> epath.Path:
    """Where rollouts and scores are."""
    return epath.Path(config.exprl.store) if config.exprl.store else epath.Path(config.run.dir) / "store"


def sampling_facts(config: Config) -> dict[str, Any]:
    """What the stored log-probabilities and ids depend on besides weights and problems."""
    return {
        **vars(sampling_params(config)),
        "seed": config.run.seed,
        "num_generations": config.train.num_generations,
        "segments": config.exprl.segments.model_dump(),
    }


def group_ids(problems: Sequence[Problem], round_: int, policy: str) -> list[str]:
    """Identity of the rollouts of each problem; a problem that comes twice, at the seam of two epochs, has two."""
    seen: Counter[str] = Counter()
    names = []
    for problem in problems:
        seen[problem.uid] += 1
        again = f"#{seen[problem.uid]}" if seen[problem.uid] > 1 else ""
        names.append(store.group_id(round_, problem.uid + again, policy))
    return names


def _part_name(round_: int, policy: str, part: int, process: int) -> str:
    """Of the rollouts of one process; the same set of names for any repetition with as many processes."""
    name = store.part_name(round_, policy, part)
    return f"{name}.{process}of{jax.process_count()}" if jax.process_count() > 1 else name
