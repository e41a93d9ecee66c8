"""Records and commands for the contract of stores."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.events import (
    Record,
    RecordStudy,
    RecordTrial,
)
from orchestrator.ports import Store, TransitionRefused
from orchestrator.schema import (
    Allocation,
    Command,
    CommandKind,
    Holder,
    Role,
    Token,
    Trial,
    TrialState,
)
from tests.unit.orchestrator.builders import study, warm_started

HOLDER = Holder(host="a", pid=1, started_at=1.0)
RIVAL = Holder(host="b", pid=2, started_at=2.0)


def line(bundle_id: str, opened_at: float = 1.0, study_id: str = "study-1") -> Allocation:
    return Allocation(
        bundle_id=bundle_id,
        study_id=study_id,
        stage_key="k",
        trial_ids=("a", "b"),
        device_ids=("node-a/cpu0",),
        share=0.5,
        opened_at=opened_at,
        memory_bytes=2**40,
        estimated_memory_bytes=2**39,
        estimated_from="first principles",
        expected_s=8.5,
        expected_low_s=4.0,
        expected_high_s=18.0,
    )


def asked(kind: CommandKind = CommandKind.PAUSE, target: str = "study-1") -> Command:
    return Command(command_id=0, at=1.0, author="ann", kind=kind, target=target, payload={"warm": True, "n": [1, 2]})


def new(*trials: Trial) -> list[RecordTrial]:
    return [RecordTrial(trial=trial, was=None, at=1.0) for trial in trials]


def moved(trial: Trial, to: TrialState, was: TrialState | None = None, **changes: object) -> RecordTrial:
    return RecordTrial(trial=replace(trial, state=to, **changes), was=was or trial.state, at=2.0)


def token(name: str = "ann") -> Token:
    return Token(name=name, digest=f"digest of {name}", role=Role.LEAD, tenant="vision", created_at=1.0)


def led(store: Store) -> int:
    """The term of a lease that was just taken."""
    lease = store.take_lease(store.lease(), HOLDER, {"packing": "best_fit"}, 1.0)
    assert lease is not None
    return lease.term


def contents(store: Store) -> tuple[object, ...]:
    """Everything that a refused call must have left alone."""
    studies = store.studies()
    trials = [store.trials(study.study_id) for study in studies]
    return studies, trials, store.allocations(), store.devices(), store.journal(0, 1000), store.pending_commands()


def queued(store: Store) -> Trial:
    """A queued trial in the store."""
    (trial,) = warm_started(1)
    store.apply([RecordStudy(study=study()), *new(trial)])
    return trial


def refused(store: Store, records: Sequence[Record], message: str) -> None:
    """The store refuses a call with these records in it, and is left as it was."""
    before = contents(store)
    with pytest.raises(TransitionRefused, match=message):
        store.apply([RecordStudy(study=study("in-the-same-call")), *records])
    assert contents(store) == before
