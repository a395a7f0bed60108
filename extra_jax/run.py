"""What every kind of training shares: a run that can be killed anywhere and goes on where it was.

    with Run(policy, max_steps) as run:                  # run.dir: refuses another configuration
        run.start(state, cursors)                        # where the last checkpoint left off
        for step in run.steps():                         # evaluates when due; after the last step: export and report
            run.state, metrics = ...                     # one update
            run.finish_step(step, metrics)               # writes down, saves when due, stops when asked to

Everything that changes the next step is in ``Run.state``, in a cursor or in exploration, and all of them are in every
checkpoint: run the same command again, and it continues bit-identically.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import jax
import numpy as np
from flax import nnx

from extra_jax.checkpoint import CHECKPOINTS, Checkpointer
from extra_jax.config import Config
from extra_jax.errors import ExtraError
from extra_jax.evaluate import Evaluator
from extra_jax.exploration import Exploration
from extra_jax.export import export_policy
from extra_jax.learn.update import TrainState
from extra_jax.parallel.processes import is_main
from extra_jax.parallel.shutdown import GracefulStop
from extra_jax.run_dir import check_length, open_run
from extra_jax.runtime import Runtime
from extra_jax.telemetry.journal import Journal, Record
from extra_jax.telemetry.metrics import read_metrics
from extra_jax.telemetry.timing import PhaseTimer


class Closable(Protocol):
    """Something that holds processes or files."""

    def close(self) -> None: ...


Resource = TypeVar("Resource", bound=Closable)


class Cursor(Protocol):
    """A part of a run that moves with its steps: the position in the data, a count, a running mean."""

    def state(self) -> Any:
        """Where it is, as JSON; the same on every process."""
        ...

    def restore(self, state: Any) -> None:
        """Continues where ``state`` was taken."""
        ...


class Count:
    """A number that grows: a cursor."""

    def __init__(self) -> None:
        self.value = 0

    def state(self) -> int:
        return self.value

    def restore(self, state: int) -> None:
        self.value = state


@dataclass(frozen=True)
class TrainResult:
    """What came of a run.

    Attributes:
        runtime: what does not change in training.
        params: at the end, in the training layout.
        run_dir: everything else.
        step: finished steps.
        history: the numbers of each step, evaluations included, also of the steps before a restart; on process 0.
    """

    runtime: Runtime
    params: nnx.State
    run_dir: Path
    step: int
    history: list[dict[str, Any]]


class Run:
    """One training from its first step, or from its last checkpoint, to its report.

    Args:
        policy: with the configuration of the run.
        max_steps: its length.

    Attributes:
        directory: ``run.dir``.
        state: parameters and optimizer; whoever trains replaces it in every step.

    Raises:
        ExtraError: ``run.dir`` holds a run of another configuration.
    """

    state: TrainState

    def __init__(self, policy: Runtime, max_steps: int):
        self.policy, self.max_steps = policy, max_steps
        self.directory = open_run(policy.config)
        self._stack = ExitStack()
        self._tokens = Count()
        self._cursors: dict[str, Cursor] = {"num_tokens": self._tokens}
        self._explore = Exploration()
        self._done = 0
        self._stopped = False

    def closing(self, resource: Resource) -> Resource:
        """Closes something with the run."""
        return self._stack.enter_context(closing(resource))

    def start(self, state: TrainState, explore: Exploration | None = None, **cursors: Cursor) -> None:
        """Opens everything that a run needs, and continues from its newest checkpoint where it has one.

        Args:
            state: before the first step.
            explore: whose state is saved and restored too.
            cursors: whatever else changes the next step, by the name in the checkpoint.

        Raises:
            ExtraError: the checkpoint does not fit, or is beyond ``max_steps``.
        """
        config: Config = self.policy.config
        self.state, self._explore = state, explore or self._explore
        self._cursors |= cursors
        self._evaluator = self.closing(Evaluator(self.policy, self.directory)) if config.benchmarks else None
        folder = self.directory / CHECKPOINTS
        self._checkpoints = self._stack.enter_context(Checkpointer(folder, keep=config.checkpoint.keep))
        self._stop = self._stack.enter_context(GracefulStop())
        if self._checkpoints.latest_step() is not None:
            self._restore()
        self.journal = self._stack.enter_context(Journal(config, total_steps=self.max_steps, first_step=self._done))
        self.timer = PhaseTimer()

    def steps(self) -> Iterator[int]:
        """The steps that are left, from 0. Evaluates before each where it is due, and after the last, which is followed
        by the export and the report; ends early after a step in which somebody asked to stop."""
        for step in range(self._done, self.max_steps):
            if is_due(step, self.policy.config.eval.every):
                self._evaluate(step)
            self.timer = PhaseTimer()
            yield step
            if self._stopped:
                return
        self._evaluate(self.max_steps)
        export_policy(self.policy, self.state.params, self.directory / "export")
        self.journal.report()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Times a block of the step as ``timing_s/NAME``."""
        return self.timer.phase(name)

    def finish_step(
        self, step: int, metrics: Mapping[str, Any], record: Record | None = None, *, may_save: bool = True
    ) -> None:
        """Writes a step down, saves it when due, and notices when somebody asked to stop.

        Args:
            step: from 0; its numbers stand under ``step + 1`` finished steps.
            metrics: of the step; ``num_tokens`` are added up over the run.
            record: its completions.
            may_save: whether the run can be continued from after this step; else it goes on to one where it can.

        Raises:
            ExtraError: the gradient is not finite.
        """
        config, done, metrics = self.policy.config, step + 1, dict(metrics)
        sampled = None  # completion tokens of all processes
        if "num_tokens" in metrics:
            self._tokens.value += int(metrics["num_tokens"])
            metrics["num_tokens"] = self._tokens.value
            sampled = config.train.completions_per_step * metrics["completions/mean_length"]
        metrics |= self.timer.metrics(sampled)
        check_gradient(done, metrics["grad_norm"], self._checkpoints.latest_step())
        if record is not None:
            self.journal.records(done, record)
        self.journal.step(done, metrics)
        self._done = done
        stopping = self._stop.requested()
        if may_save and (stopping or done == self.max_steps or is_due(done, config.checkpoint.every)):
            cursors = {name: cursor.state() for name, cursor in self._cursors.items()}
            self._checkpoints.save(done, self.state, cursors, self._explore.state())
            if stopping:
                self.journal.message(f"asked to stop: saved step {done}; the same command continues")
                self._stopped = True

    def result(self) -> TrainResult:
        """What has come of it so far."""
        history = read_metrics(self.directory) if is_main() else []
        return TrainResult(self.policy, self.state.params, self.directory, self._done, history)

    def _restore(self) -> None:
        cursors = self._checkpoints.restore_cursors()
        self._done, self.state = self._checkpoints.restore(self.state)
        check_length(self.directory, self._done, self.max_steps)
        if cursors is None:  # nothing has moved in a checkpoint that import-hf made
            return
        if cursors.keys() != self._cursors.keys():
            raise ExtraError(
                f"{self.directory}: its checkpoint holds {sorted(cursors)}, this kind of training needs "
                f"{sorted(self._cursors)}; another verb has trained there. Choose another run.dir"
            )
        for name, cursor in self._cursors.items():
            cursor.restore(cursors[name])
        self._explore.restore(self._checkpoints.restore_explore())

    def _evaluate(self, step: int) -> None:
        if self._evaluator is not None:
            self.journal.step(step, self._evaluator(self.state.params, step, self.journal.rollouts))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens at ``step``; 0 means at step 0 only."""
    return step == 0 if every == 0 else step % every == 0


def check_gradient(step: int, norm: float, last_checkpoint: int | None) -> None:
    """Stops a run whose parameters are about to become, or have become, useless."""
    if not np.isfinite(norm):
        last = f"step {last_checkpoint}; export-hf makes a model of it" if last_checkpoint else "none"
        raise ExtraError(
            f"step {step}: the gradient is not finite (last checkpoint: {last}). Start a new run with a lower "
            "optim.learning_rate or with model.dtype=float32"
        )


def check_batches(config: Config) -> None:
    """Refuses a batch that the processes cannot share evenly."""
    t, processes = config.train, jax.process_count()
    if t.prompts_per_step % (processes * t.num_minibatches):
        raise ExtraError(
            f"train.prompts_per_step={t.prompts_per_step} must be a multiple of {processes} processes x "
            f"train.num_minibatches={t.num_minibatches}"
        )
