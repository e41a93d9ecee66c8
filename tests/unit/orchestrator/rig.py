"""A scheduling loop on a simulated cluster, in virtual time."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace

from cluster.simulated import Script, SimulatedCluster
from orchestrator.events import Launch, RecordStudy, RecordTrial, StudyFinished
from orchestrator.fusion import Fusion
from orchestrator.loop import Policies, SchedulingLoop
from orchestrator.ordering import ORDERINGS
from orchestrator.packing import BestFit
from orchestrator.phases import BesideBarred
from orchestrator.ports import Store
from orchestrator.schema import (
    Allocation,
    Command,
    CommandKind,
    DeviceKind,
    Holder,
    Lease,
    Outcome,
    Prediction,
    Study,
    Tenant,
    Trial,
    TrialState,
)
from orchestrator.sharing.preemption import PREEMPTIONS
from orchestrator.state import validate
from orchestrator.store.memory import MemoryStore
from orchestrator.tracking.forwarder import forward_all
from orchestrator.tracking.memory import MemoryTracker
from tests.unit.orchestrator.builders import device, stage, study, trials, variant

CLUSTER = {"devices_per_trial": 1, "share_per_trial": 1.0, "memory_per_trial_gib": 1.0}


def ten_seconds(launch: Launch) -> Script:
    """A stage of ten seconds, checkpointing half-way."""
    half = launch.stage.budget_steps // 2
    return Script(
        duration_s=10.0,
        reports={half: {"train/loss": 1.0}},
        outcome=Outcome(metrics={"accuracy": 0.5}),
        saves=(half,),
    )


def no_report(
    _study: Study, trials: Sequence[Trial], _ledger: Sequence[Allocation], _predictions: Sequence[Prediction]
) -> StudyFinished:
    return StudyFinished(metrics={"trials": float(len(trials))}, artifacts=())


class Rig:
    """A loop on simulated devices, with what it was built from. Studies are submitted the way that people do it."""

    def __init__(
        self,
        script: Callable[[Launch], Script] = ten_seconds,
        *,
        devices: int = 2,
        store: Store | None = None,
        start_at: float = 0.0,
        ordering: Mapping[str, object] | None = None,
        preemption: Mapping[str, object] | None = None,
        tenants: Sequence[Tenant] = (),
        cluster: SimulatedCluster | None = None,
        searching: Executor | None = None,
        fusion: Fusion | None = None,
        antiphase: bool = False,
    ) -> None:
        made = SimulatedCluster(devices=[device(i) for i in range(devices)], script=script, start_at=start_at)
        self.cluster = cluster or made
        self.store = store or MemoryStore()
        self.tracker = MemoryTracker()
        lease = self.store.lease()
        me = Holder(host="here", pid=1, started_at=0.0)
        taken = self.store.take_lease(lease, me, {}, self.cluster.now())
        assert taken is not None
        self.lease: Lease = taken
        ordering = ordering or {"name": "fifo", "max_wait_s": 1e6}
        preemption = preemption or {"name": "least_lost", "max_preemptions": 3, "min_hold_s": 0.0}
        self.loop = SchedulingLoop(
            cluster=self.cluster,
            store=self.store,
            clock=self.cluster,
            policies=Policies(
                ordering=ORDERINGS[str(ordering["name"])](ordering),
                packing=BesideBarred(BestFit()) if antiphase else BestFit(),
                preemption=PREEMPTIONS[str(preemption["name"])](preemption),
                tenants={tenant.name: tenant for tenant in tenants},
                fusion=fusion,
                antiphase=antiphase,
            ),
            max_attempts=2,
            finish=no_report,
            term=self.lease.term,
            searching=searching,
        )
        self.loop.take_over(lease.beat_at)
        self.cluster.start()
        self.loop.wait_for_devices(1.0)

    def submit(
        self,
        count: int,
        study_id: str = "study-1",
        *,
        share: float = 1.0,
        tenant: str = "default",
        priority: int = 0,
        own: bool = True,
        memory_gib: float = 1.0,
        fusable: bool = False,
    ) -> int:
        """A study of `count` trials behind one warm-up, its `own` or one that other studies have too. The command's
        id."""
        at = self.cluster.now()
        config = {
            "cluster": CLUSTER | {"share_per_trial": share, "memory_per_trial_gib": memory_gib},
            "stopping": {"name": "never"},
            "study": {},
        }
        made = replace(
            study(study_id, at), config=config, device_kind=None, tenant=tenant, priority=priority
        )  # fmt: skip
        warmup = stage(f"warmup@{study_id if own else 'shared'}")
        mains = [stage(f"main@{n}", warmup, steps=30, fusable=fusable) for n in range(count)]
        variants = [variant(warmup, main) for main in mains]
        made_trials = trials(variants, study_id, at)
        command = Command(command_id=0, at=at, author="me", kind=CommandKind.SUBMIT, target=study_id)
        return self.store.submit(
            command,
            RecordStudy(study=made),
            [RecordTrial(trial=replace(t, queued_at=at), was=None, at=at) for t in made_trials],
        )

    def ask(self, kind: CommandKind, target: str, **payload: object) -> int:
        command = Command(command_id=0, at=self.cluster.now(), author="me", kind=kind, target=target, payload=payload)
        return self.store.submit(command)

    def cycle(self, timeout_s: float = 1.0) -> None:
        self.loop.cycle(timeout_s)
        validate(self.loop.state)

    def cycle_until(self, at: float) -> None:
        while self.cluster.now() < at:
            self.cycle(min(1.0, at - self.cluster.now()))

    def run(self, *study_ids: str, limit_s: float = 10_000.0) -> None:
        """Cycle until the studies are over and closed."""
        wanted = study_ids or ("study-1",)
        while not all(self.loop.finished(study_id) for study_id in wanted):
            assert self.cluster.now() < limit_s, "the studies do not end"
            self.cycle()

    def track(self) -> MemoryTracker:
        """The tracker, with all of the journal."""
        forward_all(self.store, self.tracker)
        return self.tracker

    def states(self, study_id: str = "study-1") -> list[TrialState]:
        return [trial.state for trial in self.store.trials(study_id)]

    def device_kind(self, study_id: str = "study-1") -> DeviceKind | None:
        return self.store.study(study_id).device_kind
