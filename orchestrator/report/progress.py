"""From the event machine to the live view: who sits where, what is best so far, and when it will end."""

from collections import Counter

from orchestrator.estimate import remaining_s
from orchestrator.report.live import Best, DeviceUse, Progress, Resident
from orchestrator.schema import Trial, TrialState
from orchestrator.state import SchedulerState
from orchestrator.throughput import throughput


def progress_of(state: SchedulerState, study_id: str, now: float) -> Progress:
    """What the view shows of a study at `now` [s since the epoch]."""
    study = state.studies[study_id]
    trials = state.study_trials(study_id)
    allocations = state.allocations(study_id)
    return Progress(
        at=now,
        study=study_id,
        elapsed_s=now - study.submitted_at,
        counts=Counter(trial.state for trial in trials),
        devices=_devices(state),
        best=_best(trials, state),
        experiments_per_gpu_hour=throughput(trials, allocations, now)["experiments_per_gpu_hour"],
        eta_s=remaining_s(trials, allocations, now, len(state.devices)),
        device_kind=study.device_kind.value,
        message=_message(trials, state),
    )


def _devices(state: SchedulerState) -> tuple[DeviceUse, ...]:
    residents: dict[str, list[Resident]] = {device_id: [] for device_id in state.devices}
    for bundle in state.bundles.values():
        launch = bundle.launch
        resident = Resident(
            trial_numbers=tuple(state.trials[trial_id].number for trial_id in launch.trial_ids),
            stage=launch.stage.name,
            share=launch.placement.share,
            progress=bundle.progress,
        )
        for device_id in launch.placement.device_ids:
            residents[device_id].append(resident)
    ordered = sorted(state.devices.values(), key=lambda device: (device.node_id, device.index))
    return tuple(
        DeviceUse(device_id=device.device_id, residents=tuple(residents[device.device_id])) for device in ordered
    )


def _best(trials: list[Trial], state: SchedulerState) -> tuple[Best, ...]:
    """By dev accuracy, the same measure for trials that run and trials that are over."""
    found: dict[str, Best] = {}
    for trial in trials:
        if trial.stage_index == len(trial.variant.stages):
            accuracy = trial.metrics.get("dev_accuracy")
        elif trial.state is TrialState.RUNNING and trial.stage_index == len(trial.variant.stages) - 1:
            accuracy = state.latest_metrics.get(trial.trial_id, {}).get("eval/accuracy")
        else:
            accuracy = None
        name = trial.variant.algorithm
        if accuracy is not None and (name not in found or accuracy > found[name].accuracy):
            found[name] = Best(algorithm=name, accuracy=accuracy, trial_number=trial.number)
    return tuple(found[name] for name in sorted(found))


def _message(trials: list[Trial], state: SchedulerState) -> str:
    """What the first trial in the queue waits for."""
    first = next((trial for trial in trials if trial.state is TrialState.QUEUED), None)
    return "" if first is None else f"trial {first.number} waits for {state.pending_reason(first.trial_id)}"
