"""A scheduling loop over one core of this machine: real processes, a store in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cluster.node import NodeCluster
from orchestrator.clock import SystemClock
from orchestrator.events import RecordStudy, RecordTrial
from orchestrator.loop import Policies, SchedulingLoop
from orchestrator.ordering import ORDERINGS
from orchestrator.packing import BestFit
from orchestrator.schema import Command, CommandKind, Holder, Stage
from orchestrator.sharing.preemption import never
from orchestrator.state import validate
from orchestrator.store.memory import MemoryStore
from tests.unit.orchestrator.builders import study, trials, variant
from tests.unit.orchestrator.rig import no_report

ROOT = str(Path(__file__).parents[2])
PATIENCE_S = 120.0


class LiveLoop:
    """Leads its store from the start. `close` it."""

    def __init__(
        self, home: Path, *, max_memory_raises: int = 3, antiphase: bool = False, preload: Sequence[str] = ()
    ) -> None:
        self.store, self.clock = MemoryStore(), SystemClock()
        me = Holder(host="here", pid=1, started_at=0.0)
        lease = self.store.take_lease(self.store.lease(), me, {}, self.clock.now())
        assert lease is not None
        self.cluster = NodeCluster(
            home=home, artifacts=home / "artifacts", devices=1, python_path=[ROOT], preload=preload
        )
        self.loop = SchedulingLoop(
            cluster=self.cluster,
            store=self.store,
            clock=self.clock,
            policies=Policies(
                ordering=ORDERINGS["fifo"]({"name": "fifo", "max_wait_s": 1e6}),
                packing=BestFit(),
                preemption=never,
                max_memory_raises=max_memory_raises,
                antiphase=antiphase,
            ),
            max_attempts=1,
            finish=no_report,
            term=lease.term,
        )
        self.loop.take_over(lease.beat_at)
        self.cluster.start()
        self.loop.wait_for_devices(PATIENCE_S)

    def submit(self, study_id: str, stages: Sequence[Stage], cluster: Mapping[str, object]) -> None:
        """A study with a trial for each stage."""
        at = self.clock.now()
        config = {"cluster": dict(cluster), "stopping": {"name": "never"}, "study": {}}
        made = replace(study(study_id, at), config=config, device_kind=None)
        command = Command(command_id=0, at=at, author="me", kind=CommandKind.SUBMIT, target=study_id)
        records = [
            RecordTrial(trial=replace(trial, queued_at=at), was=None, at=at)
            for trial in trials([variant(stage) for stage in stages], study_id, at)
        ]
        self.store.submit(command, RecordStudy(study=made), records)

    def until(self, condition: Callable[[], bool]) -> None:
        """Cycle until it holds."""
        deadline = self.clock.now() + PATIENCE_S
        while not condition():
            assert self.clock.now() < deadline, [self.store.trials(s.study_id) for s in self.store.studies()]
            self.loop.cycle(0.25)
            validate(self.loop.state)

    def close(self) -> None:
        """End whatever runs."""
        self.cluster.close()


def stage_of(entrypoint: str, key: str, steps: int) -> Stage:
    """A first stage of that entrypoint, without a config."""
    name = entrypoint.partition(":")[2]
    return Stage(name=name, key=key, parent_key="", entrypoint=entrypoint, config={}, budget_steps=steps)
