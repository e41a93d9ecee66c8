"""To the live view, from the event machine or from a status: who sits where, what is best so far, when it will end."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.accounting import own_and_beside
from orchestrator.forecast import Expectation, forecast
from orchestrator.fusion import Fusion
from orchestrator.report.live import Best, DeviceUse, Progress, Resident
from orchestrator.report.searched import search_entry, search_line
from orchestrator.schema import DeviceKind, Request, Trial, TrialState
from orchestrator.snapshot import Snapshot
from orchestrator.state import SchedulerState
from orchestrator.state.snapshots import pending_reason
from orchestrator.throughput import throughput


def progress_of(state: SchedulerState, study_id: str, now: float) -> Progress:
    """What the view shows of a study at `now` [s since the epoch]. The queue is taken in order of arrival."""
    study = state.studies[study_id]
    trials = state.study_trials(study_id)
    snapshot = state.snapshot(now)
    queue = snapshot.queue
    end_at = now if state.finished(study_id) else end_of(trials, forecast(state, _joined(state, snapshot), now))
    own, beside = own_and_beside(study_id, state.allocations_about(study_id))
    others = sum(request.study_id != study_id for request in queue)
    return Progress(
        at=now,
        study=study_id,
        elapsed_s=now - study.submitted_at,
        counts=dict(state.counts[study_id]),
        devices=_devices(state),
        best=best_of(trials),
        experiments_per_gpu_hour=throughput(trials, own, now, beside)["experiments_per_gpu_hour"],
        eta_s=None if end_at is None else max(0.0, end_at - now),
        device_kind=device_kind(study.device_kind),
        message="; ".join(
            part for part in (_searched(search_entry(study, trials)), _waits(trials, state), _others(others)) if part
        ),
    )


def _joined(state: SchedulerState, snapshot: Snapshot) -> Sequence[Request]:
    """The queue with those joined that will train as one program, as wide as such programs are tried by default."""
    waiting = tuple(snapshot.queue)
    return Fusion().join(snapshot, state.widths, waiting).requests if state.fuses else waiting


def progress_in(status: Mapping[str, Any], study_id: str, now: float) -> Progress:
    """The same from a status document (see `control.views.status_document`)."""
    study = next(study for study in status["studies"] if study["id"] == study_id)
    trials = [trial for trial in status["trials"] if trial["study"] == study_id]
    first = next((trial for trial in trials if trial["why"]), None)
    others = sum(other["trials_by_state"]["queued"] for other in status["studies"] if other is not study)
    waits = f"trial {first['number']} waits for {first['why']}" if first else ""
    end_at = study["eta_at"] if study["ended_at"] is None else now
    return Progress(
        at=now,
        study=study_id,
        elapsed_s=now - study["submitted_at"],
        counts={TrialState(state): count for state, count in study["trials_by_state"].items()},
        devices=tuple(_device_use(device) for device in status["devices"]),
        best=tuple(Best(**best) for best in study["best"]),
        experiments_per_gpu_hour=study["experiments_per_gpu_hour"],
        eta_s=None if end_at is None else max(0.0, end_at - now),
        device_kind=study["device_kind"],
        message="; ".join(part for part in (_searched(study.get("search")), waits, _others(others)) if part),
    )


def device_kind(kind: DeviceKind | None) -> str:
    """`cpu`, `cuda`, or nothing while no device has joined."""
    return "" if kind is None else kind.value


def end_of(trials: Iterable[Trial], expected: Mapping[str, Expectation]) -> float | None:
    """When the last of the trials that run or wait is expected to end [s since the epoch]; None if nobody can say of
    one of them, or none runs or waits."""
    live = [trial.trial_id for trial in trials if trial.state in (TrialState.QUEUED, TrialState.RUNNING)]
    if not live or any(trial_id not in expected for trial_id in live):
        return None
    return max(expected[trial_id].end_at for trial_id in live)


def best_of(trials: Iterable[Trial]) -> tuple[Best, ...]:
    """By dev accuracy, the same measure for trials that run and trials that are over; one entry per algorithm."""
    found: dict[str, Best] = {}
    for trial in trials:
        if trial.stage_index == len(trial.variant.stages):
            accuracy = trial.metrics.get("dev_accuracy")
        else:
            accuracy = trial.latest.get("eval/accuracy", (0.0, None))[1]
        name = trial.variant.algorithm
        if accuracy is not None and (name not in found or accuracy > found[name].accuracy):
            found[name] = Best(algorithm=name, accuracy=accuracy, trial_number=trial.number)
    return tuple(found[name] for name in sorted(found))


def _devices(state: SchedulerState) -> tuple[DeviceUse, ...]:
    residents: dict[str, list[Resident]] = {free.device.device_id: [] for free in state.room.free()}
    for bundle in state.bundles.values():
        launch = bundle.launch
        resident = Resident(
            trial_numbers=tuple(state.trials[t].number for t in state.stages[launch.stage.key].waiters),
            stage=launch.stage.name,
            share=launch.placement.share,
            progress=bundle.progress,
        )
        for device_id in launch.placement.device_ids:
            if device_id in residents:
                residents[device_id].append(resident)
    return tuple(DeviceUse(device_id=device_id, residents=tuple(on_it)) for device_id, on_it in residents.items())


def _device_use(device: Mapping[str, Any]) -> DeviceUse:
    residents = tuple(
        Resident(
            trial_numbers=tuple(each["numbers"]), stage=each["stage"], share=each["share"], progress=each["progress"]
        )
        for each in device["residents"]
    )
    return DeviceUse(device_id=device["id"], residents=residents)


def _waits(trials: Sequence[Trial], state: SchedulerState) -> str:
    """What the first trial in the queue waits for."""
    first = next((trial for trial in trials if trial.state is TrialState.QUEUED), None)
    return "" if first is None else f"trial {first.number} waits for {pending_reason(state, first.trial_id, {})}"


def _searched(entry: Mapping[str, Any] | None) -> str:
    return search_line(entry) if entry else ""


def _others(count: int) -> str:
    return f"{count} more of other studies wait in this queue" if count else ""
