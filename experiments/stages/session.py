"""What every stage shares: set-up, evaluation, reporting, checkpoints, and the outcome. No loop lives here.

A stage opens a `Session`, trains step by step, and ends with `finish` or, when asked to stop, with `pause`. `Progress`
is all that a stage has to remember between steps, besides weights, optimizer and random generators.
"""

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from experiments.batches import seeded_generator
from experiments.channel import Channel
from experiments.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint, save_output
from experiments.engine import Engine, open_device
from experiments.evaluate import evaluate, seconds_per_answer
from experiments.gang import sum_over_processes
from experiments.measuring import Measurement, Meter
from experiments.models.decoder import Decoder, load_decoder
from experiments.schedule import learning_rate
from experiments.tasks import CharTokenizer, Task, load_task
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import StageConfig, stage_config

REPORT_EVERY_STEPS = 10
RESEND_S = 60.0
"""Whoever passes a report on may die before it is written down, and the stage with it. A resumed stage says again what
it had said within this time before its checkpoint; what is known already is not counted again."""
CHECKPOINT_LEAST_S = 2.0
CHECKPOINT_COSTS = 50.0
"""A periodic checkpoint is due this many times the last one's cost after it, `CHECKPOINT_LEAST_S` at the least: they
take a fiftieth of the time at most, and a lost worker costs no more than that interval."""


@dataclass
class Progress:
    """step: steps done. position: where in the endless order of the data the next step begins [items].
    tokens_seen: prompt and answer tokens, BOS and EOS included, that this process computed.

    series: what was recorded since the last report, as (value, weight). reported: the latest reports, as (time, step,
    metrics, fraction done).
    """

    step: int = 0
    position: int = 0
    tokens_seen: int = 0
    start_accuracy: float = -1.0
    dev_accuracy: float = 0.0
    dev_step: int = -1
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    reported: list[tuple[float, int, dict[str, float], float]] = field(default_factory=list)


class Session:
    """One stage run of one process: its device, data, engine and progress."""

    def __init__(self, assignment: Assignment, channel: Channel, config: StageConfig, items_per_step: int) -> None:
        self.assignment, self.channel, self.config = assignment, channel, config
        self.rank, self.world_size = assignment.rank, assignment.world_size
        if items_per_step < self.world_size:
            raise ValueError(f"{items_per_step} items per step cannot be shared by {self.world_size} processes")
        _seed_global_generators(config.seed)
        self.tokenizer = CharTokenizer()
        self.task: Task = load_task(config.task, Path(assignment.cache_dir))
        self.device = open_device(assignment)
        self.sampler = seeded_generator(config.seed, "sampling")
        self.engine = Engine(self.initial_decoder(), config.deepspeed, config.optimizer, items_per_step, self.device)
        warm = Path(assignment.warm_dir) if assignment.warm_dir else None
        self._layout = {"algorithm.name": config.algorithm.name, **self.engine.layout}
        saved = load_checkpoint(Path(assignment.checkpoint_dir), warm, self.engine, self._layout, self.sampler)
        self.progress = Progress() if saved is None else Progress(**saved)
        self._report_again(of_another=warm is not None and not has_checkpoint(Path(assignment.checkpoint_dir)))
        self._items_per_step = items_per_step
        self.meter = Meter(assignment, self.device)
        self._busy_s = 0.0
        self._checkpoint_interval_s = CHECKPOINT_LEAST_S
        self._checkpointed_at = time.perf_counter()

    @property
    def just_warm(self) -> bool:
        """Whether this is a warm stage that has not trained yet: what ended its parent doesn't end it."""
        return bool(self.assignment.warm_dir) and self.progress.step == self.assignment.stage.warm_step

    def initial_decoder(self) -> Decoder:
        """The parent stage's model, or random weights from the stage's seed where there is no parent; on the CPU."""
        if self.assignment.parent_dir:
            return load_decoder(Path(self.assignment.parent_dir)).float()
        return Decoder(self.config.model, self.tokenizer.vocab_size, seeded_generator(self.config.seed, "weights"))

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Counts the time inside as computing: rollout, forward, backward, optimizer, evaluation."""
        started = time.perf_counter()
        yield
        self._busy_s += time.perf_counter() - started

    def learning_rate(self) -> float:
        """The rate of the current step."""
        return learning_rate(self.config.optimizer, self.progress.step, self.config.algorithm.max_steps)

    def evaluate_if_due(self) -> None:
        """`eval/accuracy` on the dev split at steps 0, every_steps, 2 every_steps...; the test split once at step 0."""
        if self.progress.start_accuracy < 0.0:
            self.progress.start_accuracy = self._accuracy_on_test()[0]
        if self.progress.step % self.config.evaluation.every_steps == 0:
            self._evaluate_on_dev()

    def next_items(self) -> slice:
        """The positions of this step's items, of all processes, in the endless order of the data."""
        return slice(self.progress.position, self.progress.position + self._items_per_step)

    def record(self, values: Mapping[str, Tensor | float], weight: float = 1.0) -> None:
        """Adds to the `train/*` series: means over `REPORT_EVERY_STEPS` steps (and the gang) weighted by `weight`."""
        for name, value in values.items():
            self.progress.series.setdefault(name, []).append((float(value), weight))

    def complete_step(self, tokens: int) -> None:
        """Counts a step and the `tokens` it took of this process; reports the series when due. Collective."""
        self.progress.step += 1
        self.progress.position += self._items_per_step
        self.progress.tokens_seen += tokens
        if self.progress.step % REPORT_EVERY_STEPS == 0:
            self._report_series()
        self._tell_measured(self.meter.after_step(learned=self.engine.learned > 0))

    def stop_requested(self) -> bool:
        """Whether to pause at this step boundary; writes the periodic checkpoint when it is due. Collective."""
        due = time.perf_counter() - self._checkpointed_at >= self._checkpoint_interval_s
        flags = torch.tensor([float(self.channel.stop_requested()), float(due)])
        stop, checkpoint = sum_over_processes(flags.to(self.device)).tolist() if self.world_size > 1 else flags.tolist()
        if checkpoint and not stop:
            self._checkpoint()
        return bool(stop)

    def pause(self) -> Outcome:
        """The outcome of a stage that was asked to stop: a checkpoint, no output."""
        self._checkpoint()
        return Outcome(
            metrics=self._counts(),
            busy_s=self._busy_s,
            peak_memory_bytes=self._last_measured(),
            finished=False,
        )

    def finish(self) -> Outcome:
        """Writes the output, measures it on the test split, and returns the stage's outcome. Collective.

        The last checkpoint comes first, before the series are cut here: whoever goes on from it reports them as if the
        stage had never ended.
        """
        self._checkpoint()
        if self.progress.dev_step != self.progress.step:
            self._evaluate_on_dev()
        self._report_series()
        accuracy, low, high, tokens = self._accuracy_on_test()
        timed = self.config.evaluation.timed_answers
        with self.busy():
            seconds = seconds_per_answer(self.engine.decoder(), self.task, self.task.test, self.tokenizer, timed)
        save_output(Path(self.assignment.output_dir), self.engine)
        self._report({}, done=1.0)
        metrics = {
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "dev_accuracy": self.progress.dev_accuracy,
            "start_accuracy": self.progress.start_accuracy,
            "tokens_per_answer": tokens,
            "seconds_per_answer": seconds,
            **self._counts(),
        }
        return Outcome(metrics=metrics, busy_s=self._busy_s, peak_memory_bytes=self._last_measured())

    def _counts(self) -> dict[str, float]:
        tokens = torch.tensor(self.progress.tokens_seen, device=self.device)
        return {"steps": float(self.progress.step), "tokens_seen": float(sum_over_processes(tokens))}

    def _evaluate_on_dev(self) -> None:
        if self.progress.dev_step == self.progress.step:
            return
        with self.busy():
            size = self.config.evaluation.batch_size
            result = evaluate(self.engine.decoder(), self.task, self.task.dev, self.tokenizer, size)
        self.progress.dev_accuracy, self.progress.dev_step = result.accuracy, self.progress.step
        self._report({"eval/accuracy": result.accuracy})

    def _accuracy_on_test(self) -> tuple[float, float, float, float]:
        with self.busy():
            size = self.config.evaluation.batch_size
            result = evaluate(self.engine.decoder(), self.task, self.task.test, self.tokenizer, size)
        return result.accuracy, result.low, result.high, result.tokens_per_answer

    def _report_series(self) -> None:
        series, names = self.progress.series, sorted(self.progress.series)
        if not names:
            return
        sums = [
            (sum(value * weight for value, weight in series[n]), sum(weight for _, weight in series[n])) for n in names
        ]
        totals = sum_over_processes(torch.tensor(sums, dtype=torch.float64, device=self.device)).tolist()
        means = {name: total / weight for name, (total, weight) in zip(names, totals, strict=True) if weight}
        if means:
            self._report(means)
        # The names stay, so that every process of a gang has the same rows in the next sum.
        self.progress.series = {name: [] for name in names}

    def _report(self, metrics: Mapping[str, float], done: float | None = None) -> None:
        if self.rank == 0:
            fraction = min(1.0, self.progress.step / self.config.algorithm.max_steps) if done is None else done
            self.progress.reported.append((time.time(), self.progress.step, dict(metrics), fraction))
            self.channel.report(self.progress.step, metrics, fraction)

    def _report_again(self, *, of_another: bool) -> None:
        """What was reported shortly before the checkpoint; nothing if that is the checkpoint `of_another` stage."""
        if of_another:
            self.progress.reported = []
        if self.rank == 0:
            for _, step, metrics, fraction in self.progress.reported:
                self.channel.report(step, metrics, fraction)

    def _checkpoint(self) -> None:
        started = time.perf_counter()
        since = time.time() - RESEND_S
        self.progress.reported = [report for report in self.progress.reported if report[0] >= since]
        folder = Path(self.assignment.checkpoint_dir)
        progress = asdict(self.progress)
        save_checkpoint(folder, self.engine, self._layout, self.progress.step, progress, self.sampler)
        self._checkpointed_at = time.perf_counter()
        self._checkpoint_interval_s = max(CHECKPOINT_LEAST_S, CHECKPOINT_COSTS * (self._checkpointed_at - started))
        if self.rank == 0:
            self.channel.saved(self.progress.step)

    def _tell_measured(self, measured: Measurement | None) -> None:
        if measured is not None:
            self.channel.measured(measured.memory_bytes, measured.host_memory_bytes, measured.utilisation)

    def _last_measured(self) -> int:
        """The peak memory of the run that ends [bytes]; whoever listens has its other figures too."""
        measured = self.meter.now()
        self._tell_measured(measured)
        return measured.memory_bytes


@contextmanager
def open_session(assignment: Assignment, channel: Channel, items_per_step: int) -> Iterator[Session]:
    """Sets a stage up, from its checkpoint if there is one; `items_per_step` examples or prompts are shared by a gang.

    Raises TaskError for a task that cannot be built as configured, ValueError for fewer items than processes, and what
    `load_checkpoint` does.
    """
    session = Session(assignment, channel, stage_config(assignment.stage.config), items_per_step)
    yield session
    if assignment.world_size > 1:
        # A group of one stays, for the next stage of this process: DeepSpeed keeps references to it for good.
        dist.destroy_process_group()


def _seed_global_generators(seed: int) -> None:
    """For code that draws from the libraries' own generators; ours are streams of their own."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
