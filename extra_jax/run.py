"""What every kind of training shares: a run that can be killed anywhere and goes on where it was.

    with Run(policy, max_steps) as run:                  # run.dir: refuses another configuration
        run.start(state, cursors)                        # where the last checkpoint left off
        for step in run.steps():                         # evaluates when due; after the last step: export and report
            run.state, metrics = ...                     # one update
            run.finish_step(step, metrics)               # writes down, saves when due, stops when asked to
    return run.result()                                  # after the block, which a request to stop may leave early

Everything that changes the next step is in ``Run.state``, in a cursor or in exploration, and all of them are in every
checkpoint: run the same command again, and it continues bit-identically.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import jax
import numpy as np
from flax import nnx
from flax.serialization import msgpack_restore, msgpack_serialize

from extra_jax.checkpoint import Checkpointer, checkpoint_folder
from extra_jax.config import Config
from extra_jax.errors import ExtraError
from extra_jax.evaluate import Evaluator
from extra_jax.exploration import Exploration
from extra_jax.export import export_policy
from extra_jax.files import disk_errors, disk_refusal
from extra_jax.learn.update import TrainState
from extra_jax.model.fingerprint import fingerprint
from extra_jax.noise import Noise
from extra_jax.parallel import watchdog
from extra_jax.parallel.processes import agree, is_main, on_main
from extra_jax.parallel.shutdown import GracefulStop, StopRequest
from extra_jax.provenance import begin_session, end_session
from extra_jax.rollout.session import Progress as OnProgress
from extra_jax.run_dir import check_inputs, check_length, locked, open_run, tidy
from extra_jax.runtime import Runtime
from extra_jax.telemetry.journal import Journal, Record
from extra_jax.telemetry.metrics import last_recorded_step, read_metrics
from extra_jax.telemetry.timing import PhaseTimer


class Closable(Protocol):
    """Something that holds processes or files."""

    def close(self) -> None: ...


Resource = TypeVar("Resource", bound=Closable)

# Seconds of a step that is finished when somebody asks to stop; a longer one is given up while it samples. Who takes a
# machine away leaves half a minute.
_SHORT_STEP = 15.0
_NOISE = "noise"  # in the tree of a checkpoint, beside what exploration saves


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
    directory: Path

    def __init__(self, policy: Runtime, max_steps: int):
        self.policy, self.max_steps = policy, max_steps
        self._tokens = Count()
        self._cursors: dict[str, Cursor] = {"num_tokens": self._tokens}
        self._explore, self._noise = Exploration(), Noise()
        self._done = 0
        self._stopped = self._began = False
        self._may_save = True
        self._step_seconds = 0.0
        self._before: tuple[dict[str, Any], bytes] | None = None  # cursors and exploration before the step, if needed

    def closing(self, resource: Resource) -> Resource:
        """Closes something with the run."""
        return self._stack.enter_context(closing(resource))

    def start(
        self,
        state: TrainState,
        explore: Exploration | None = None,
        noise: Noise | None = None,
        **cursors: Cursor,
    ) -> None:
        """Opens everything that a run needs, and continues from its newest checkpoint where it has one.

        Args:
            state: before the first step.
            explore: whose state is saved and restored too.
            noise: likewise; it does not change before the end of a step.
            cursors: whatever else changes the next step, by the name in the checkpoint.

        Raises:
            ExtraError: the checkpoint does not fit, or is beyond ``max_steps``.
        """
        config: Config = self.policy.config
        self.state, self._explore, self._noise = state, explore or self._explore, noise or self._noise
        self._cursors |= cursors
        self._evaluator = self.closing(Evaluator(self.policy, self.directory)) if config.benchmarks else None
        model = fingerprint(state.params, self.policy.mesh) if config.model.path else None
        on_main(lambda: check_inputs(config, model))
        folder = checkpoint_folder(config, self.directory)
        self._checkpoints = self._stack.enter_context(Checkpointer(folder, keep=config.checkpoint.keep))
        if self._checkpoints.latest_step() is not None:
            self._restore()
        on_main(lambda: tidy(config, self._done))
        if self._done < self.max_steps:
            on_main(lambda: begin_session(self.directory, self._done))
            self._began = True
        self.journal = self._stack.enter_context(Journal(config, total_steps=self.max_steps, first_step=self._done))
        self.journal.rollouts = self._watched(self.journal.rollouts)
        self.timer = PhaseTimer()

    def steps(self) -> Iterator[int]:
        """The steps that are left, from 0. Evaluates before each where it is due, and after the last, which is followed
        by the export and the report; ends early after a step in which somebody asked to stop."""
        for step in range(self._done, self.max_steps):
            if is_due(step, self.policy.config.eval.every):
                self._evaluate(step)
            self.timer = PhaseTimer()
            self._before = self._snapshot() if self._step_seconds > _SHORT_STEP and self._may_save else None
            yield step
            self._before = None
            if self._stopped:
                return
        self._evaluate(self.max_steps)
        watchdog.at("export and report")
        export_policy(self.policy, self.state.params, self.directory / "export")
        self._end_session("finished")
        self.journal.report()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a block of the step as ``timing_s/NAME``; leaves before it where somebody asked to stop, as
        ``_watched`` does."""
        if agree(self._may_leave()):
            raise StopRequest
        with self.timer.phase(name):
            yield

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
        self._step_seconds = float(agree(metrics["step_time"]))
        self._may_save = may_save
        watchdog.at(f"end of step {done}")
        check_gradient(done, metrics["grad_norm"], self._checkpoints.latest_step())
        if record is not None:
            self.journal.records(done, record)
        self.journal.step(done, metrics)
        self._done = done
        stopping = self._stop.requested()
        if may_save and (stopping or done == self.max_steps or is_due(done, config.checkpoint.every)):
            self._checkpoints.save(done, self.state, self._positions(), self._with_noise(self._explore.state()))
            self._stopped = stopping
            if stopping:
                self._say_goodbye()

    def result(self) -> TrainResult:
        """What has come of it so far."""
        history = read_metrics(self.directory) if is_main() else []
        return TrainResult(self.policy, self.state.params, self.directory, self._done, history)

    def _positions(self) -> dict[str, Any]:
        return {name: cursor.state() for name, cursor in self._cursors.items()}

    def _is_saved(self) -> bool:
        return self._done in (0, self._checkpoints.latest_step())

    def _snapshot(self) -> tuple[dict[str, Any], bytes]:
        return self._positions(), msgpack_serialize(self._explore.state(), in_place=True)

    def _with_noise(self, explore: dict[str, Any] | None) -> dict[str, Any] | None:
        """What a checkpoint holds of the host: the state of exploration, and with it that of the noise."""
        noise = self._noise.state()
        return explore if noise is None else {**(explore or {}), _NOISE: noise}

    def _watched(self, progress: OnProgress) -> OnProgress:
        """Looks between two chunks of sampling whether somebody asked to stop, where what is sampled can be done again:
        in evaluations, and in a step that is long or follows a checkpoint."""

        def watch(finished: int, in_flight: int, total: int) -> bool:
            progress(finished, in_flight, total)
            return self._may_leave()

        return watch

    def _may_leave(self) -> bool:
        """Whether this process was asked to stop where the step can be given up."""
        return self._stop.asked and (self._before is not None or self._is_saved())

    def _give_up_step(self) -> None:
        """Saves what was before the step that is given up, or before the evaluation."""
        if not self._is_saved():
            assert self._before is not None  # else nobody would have been stopped
            cursors, explore = self._before
            self._checkpoints.save(self._done, self.state, cursors, self._with_noise(msgpack_restore(explore)))
        self._say_goodbye()

    def _end_session(self, result: str) -> None:
        if self._began and is_main():
            end_session(self.directory, self._done, result)
        self._began = False

    def _say_goodbye(self) -> None:
        saved = f"saved step {self._done}" if self._done else "nothing to save"
        self.journal.message(f"asked to stop: {saved}; the same command continues")

    def _restore(self) -> None:
        recorded: list[int] = []
        on_main(lambda: recorded.append(last_recorded_step(self.directory)))
        saved = self._checkpoints.resume(self.state, int(agree(recorded[0] if recorded else -1)))
        self._done, self.state = saved.step, saved.state
        check_length(self.directory, self._done, self.max_steps)
        if saved.cursors is None:  # nothing has moved in a checkpoint that import-hf made
            return
        if saved.cursors.keys() != self._cursors.keys():
            raise ExtraError(
                f"{self.directory}: its checkpoint holds {sorted(saved.cursors)}, this kind of training needs "
                f"{sorted(self._cursors)}; another verb has trained there. Choose another run.dir"
            )
        for name, cursor in self._cursors.items():
            cursor.restore(saved.cursors[name])
        trees = dict(saved.explore or {})
        self._noise.restore(trees.pop(_NOISE, None))
        self._explore.restore(trees or None)

    def _evaluate(self, step: int) -> None:
        if self._evaluator is not None:
            watchdog.at(f"evaluation after step {step}")
            self._before = self._snapshot() if self._may_save else None
            metrics = self._evaluator(self.state.params, step, self.journal.rollouts)
            metrics |= self._noise.measured(self.state.params, step, self.journal.rollouts)
            self.journal.step(step, metrics)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stop = stack.enter_context(GracefulStop())  # until the last save has ended
            stack.enter_context(locked(Path(self.policy.config.run.dir)))
            self.directory = open_run(self.policy.config)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is not None and not isinstance(error, StopRequest):
            said = error if isinstance(error, ExtraError) else disk_refusal(error, self.directory)
            watchdog.fail(f"{said or f'{type(error).__name__}: {error}'}", 2 if said else 70, foreseen=said is not None)
        with disk_errors(self.directory), self._stack:
            if isinstance(error, StopRequest):
                self._give_up_step()
            elif error is not None:
                raise error
            self._end_session("stopped")
        return error is not None


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
