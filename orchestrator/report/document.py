"""The report as one plain JSON object: what `orchestrator report --format json` prints and every other form is made of.

The fields are described in the README beside this file. They are stable: fields may be added, none changes its meaning.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.accounting import charged, charges, own_and_beside, seats
from orchestrator.redaction import redacted_override
from orchestrator.report.estimates import estimate_errors
from orchestrator.report.eta import eta_errors
from orchestrator.report.gain import NO_OUTCOMES, base_accuracies, base_entry, gain_of
from orchestrator.report.pareto import pareto_entry
from orchestrator.report.per_hour import stage_seconds
from orchestrator.report.regret import pruning_regret
from orchestrator.report.searched import search_entry
from orchestrator.report.verdict import groups_of, setting_entry, verdict_of
from orchestrator.schema import NO_CHARGE, Allocation, Charge, Outcome, Prediction, Study, Trial, TrialState
from orchestrator.throughput import EXPLANATIONS, throughput

Document = Mapping[str, Any]


def build_report(
    study: Study,
    trials: Sequence[Trial],
    allocations: Sequence[Allocation],
    now: float,
    predictions: Sequence[Prediction] = (),
    sharing: Sequence[Mapping[str, Any]] = (),
    outcomes: Mapping[str, Outcome] = NO_OUTCOMES,
) -> dict[str, Any]:
    """The document of a study as it stands at `now` [seconds since the epoch], running, paused or ended. `allocations`
    are the lines that are about it (`accounting.about`), `predictions` the first that were made of its trials,
    `sharing` what was measured of work that shares a device (see README), `outcomes` those of `gain.telling_stages`.

    Values that JSON can't express (NaN, infinities) become null. Deterministic: equal arguments give equal documents.
    """
    end = study.ended_at if study.ended_at is not None else now
    own, beside = own_and_beside(study.study_id, allocations)
    in_stacks = seats(allocations, end)
    of_trial = charges(allocations, in_stacks, end)
    in_seats = sorted(trials, key=lambda trial: trial.number)
    ordered = [charged(trial, of_trial.get(trial.trial_id, NO_CHARGE)) for trial in in_seats]
    bases = base_accuracies(ordered, outcomes)
    settings = [{"algorithm": group.algorithm, **setting_entry(group, bases)} for group in groups_of(ordered)]
    document = {
        "study": {
            "id": study.study_id,
            "name": study.name,
            "tenant": study.tenant,
            "priority": study.priority,
            "sweep": [redacted_override(text) for text in study.sweep],
            "device_kind": "" if study.device_kind is None else study.device_kind.value,
            "git_revision": study.git_revision,
            "submitted_at": study.submitted_at,
            "ended_at": study.ended_at,
            "seconds": end - study.submitted_at,
            "trials_by_state": {str(state): sum(t.state is state for t in ordered) for state in TrialState},
        },
        "trials": [
            {**_trial(trial, of_trial.get(trial.trial_id, NO_CHARGE), end), "gain": gain_of(trial, bases)}
            for trial in ordered
        ],
        "base": base_entry(ordered, bases),
        "settings": settings,
        "pareto": pareto_entry(settings, study.config.get("report", {}).get("patience_s")),
        "throughput": throughput(ordered, own, end, beside),
        "throughput_explained": dict(EXPLANATIONS),
        "eta": eta_errors(ordered, own, predictions),
        "estimates": estimate_errors(ordered, own),
        "sharing": list(sharing),
        "pruning_regret": pruning_regret(in_seats),
        "search": search_entry(study, ordered),
        "verdict": verdict_of(ordered, stage_seconds(own, in_stacks, end), outcomes),
    }
    clean: dict[str, Any] = _finite(document)
    return clean


def _trial(trial: Trial, charge: Charge, end: float) -> dict[str, Any]:
    """`seconds`: from the start of its own first stage to its end; null before that."""
    ended = trial.ended_at if trial.ended_at is not None else end
    return {
        "id": trial.trial_id,
        "number": trial.number,
        "algorithm": trial.variant.algorithm,
        "seed": trial.variant.seed,
        "state": str(trial.state),
        "overrides": [redacted_override(text) for text in trial.variant.overrides],
        "metrics": dict(trial.metrics),
        "gpu_seconds": trial.gpu_seconds,
        "gpu_seconds_fused": charge.fused_s,
        "gpu_seconds_vacated": charge.vacated_s,
        "stack_ids": list(charge.stack_ids),
        "stack_width": charge.width,
        "seconds": None if trial.started_at is None else ended - trial.started_at,
        "budget_fraction": trial.budget_fraction,
        "reused_stages": list(trial.reused_stages),
        "cloned_from": trial.cloned_from,
        "preemptions": trial.preemptions,
        "error": trial.error,
    }


def _finite(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {name: _finite(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_finite(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node
