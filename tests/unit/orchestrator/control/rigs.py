"""A store served by the scheduling loop on a simulated cluster, in virtual time: what views are views of."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from cluster.simulated import Script, SimulatedCluster
from orchestrator.events import Launch, RecordStudy, RecordTrial, StudyFinished
from orchestrator.loop import SchedulingLoop
from orchestrator.ports import Store
from orchestrator.schema import Command, CommandKind, Holder, Outcome
from orchestrator.service.rooms import build_policies, service_config
from orchestrator.state import validate
from orchestrator.store.memory import MemoryStore
from orchestrator.submission import Submission
from orchestrator.sweep import compose_study
from tests.unit.orchestrator.builders import device

STEP_S = 0.5
# Five trials behind a warm-up that they share; 40 steps each.
OVERRIDES = (
    "study=rl_vs_sft",
    "algorithm=sft",
    "optimizer.lr=1e-3",
    "seed=range(0,5)",
    "algorithm.max_steps=40",
    "fusion=off",
)


@cache
def composed(*overrides: str) -> Submission:
    made = compose_study(list(overrides))
    return Submission(name=made.name, config=made.config, overrides=overrides, sweep=made.sweep, variants=made.variants)


def steady(launch: Launch) -> Script:
    """Every step takes as long as any other, and is reported."""
    steps = launch.stage.budget_steps
    reports = {step: {"eval/accuracy": step / steps} for step in range(1, steps + 1)}
    return Script(
        duration_s=steps * STEP_S,
        reports=reports,
        saves=range(10, steps, 10),
        outcome=Outcome(metrics={"accuracy": 0.5, "dev_accuracy": 0.5}),
    )


class Rig:
    """Two devices. `at` is the virtual time; whoever leads gives a sign of life in every cycle."""

    def __init__(
        self,
        *overrides: str,
        store: Store | None = None,
        script: Callable[[Launch], Script] = steady,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.submission = composed(*(overrides or OVERRIDES))
        self.config = service_config({**self.submission.config, **(config or {})})
        self.store: Store = store or MemoryStore()
        self.cluster = SimulatedCluster(devices=[device(0), device(1)], script=script, start_at=1000.0)
        holder = Holder(host="here", pid=1, started_at=0.0)
        lease = self.store.take_lease(self.store.lease(), holder, self.config, self.at)
        assert lease is not None
        self.term = lease.term
        self.loop = SchedulingLoop(
            cluster=self.cluster,
            store=self.store,
            clock=self.cluster,
            policies=build_policies(self.config),
            max_attempts=2,
            finish=lambda *_: StudyFinished(metrics={}, artifacts=()),
        )
        self.cluster.start()
        self.loop.wait_for_devices(1.0)

    @property
    def at(self) -> float:
        return self.cluster.now()

    def submit(self) -> str:
        study = self.submission.new_study(self.at)
        command = Command(command_id=0, at=self.at, author="anna", kind=CommandKind.SUBMIT, target=study.study_id)
        trials = self.submission.trials(study)
        self.store.submit(
            command, RecordStudy(study=study), [RecordTrial(trial=trial, was=None, at=self.at) for trial in trials]
        )
        return study.study_id

    def ask(self, kind: CommandKind, target: str) -> int:
        return self.store.submit(Command(command_id=0, at=self.at, author="anna", kind=kind, target=target))

    def cycle(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.cycle(0.25)
            self.store.renew_lease(self.term, self.at)
        validate(self.loop.state)

    def until(self, happened: Callable[[], bool], cycles: int = 5000) -> None:
        for _ in range(cycles):
            if happened():
                return
            self.cycle()
        raise AssertionError("it did not happen")

    def finish(self, study_id: str) -> None:
        self.until(lambda: self.loop.finished(study_id))

    def completed(self, study_id: str) -> int:
        return sum(trial.state.decided for trial in self.store.trials(study_id))


def by_number(rows: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    return {row["number"]: row for row in rows}
