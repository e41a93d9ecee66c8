"""How a study and its trials look as tracked runs: names, tags, params, final metrics, status. Pure.

Every tracker writes these words, so that a reader (or a test) finds the same things whichever one is configured. A
study is a parent run, each trial a child run of it. Secrets (see `orchestrator.redaction`) are masked here, so that no
tracker sees one.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from orchestrator.accounting import charged
from orchestrator.redaction import redacted, redacted_override, redacted_text
from orchestrator.schema import NO_CHARGE, Charge, Study, Trial, TrialState

CONFIG_FILE: Final = "config.yaml"
"""The artifact that holds a run's resolved config."""

ERROR_FILE: Final = "error.txt"
"""The artifact that holds all of a failed trial's error; its `error` tag is shortened to fit a table cell."""

ERROR_TAG: Final = "error"

MAX_ERROR_TAG_CHARS: Final = 500
MAX_RUN_NAME_CHARS: Final = 120


class NoRun(Exception):
    """A point of a trial that has no run: its opening was refused."""


class RunStatus(StrEnum):
    """The life of a tracked run, in MLflow's words."""

    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


STATUS_OF: Final[Mapping[TrialState, RunStatus]] = {
    TrialState.QUEUED: RunStatus.SCHEDULED,
    TrialState.RUNNING: RunStatus.RUNNING,
    TrialState.PAUSED: RunStatus.SCHEDULED,
    TrialState.COMPLETED: RunStatus.FINISHED,
    # A pruned trial gave its answer; its `state` tag tells it from a completed one.
    TrialState.PRUNED: RunStatus.FINISHED,
    TrialState.FAILED: RunStatus.FAILED,
    TrialState.CANCELLED: RunStatus.KILLED,
}


def experiment_name(study: Study) -> str:
    """Unique per study, and sorted by what the researcher called it."""
    return f"{study.name}/{study.study_id}"


def study_tags(study: Study) -> dict[str, str]:
    """Tags of the parent run."""
    return {
        "orchestrator.kind": "study",
        "study_id": study.study_id,
        "device_kind": str(study.device_kind or ""),
        "sweep": _overrides(study.sweep),
        "overrides": _overrides(study.overrides),
        "tenant": study.tenant,
        "priority": str(study.priority),
        **_revision_tags(study),
    }


def trial_tags(study: Study, trial: Trial) -> dict[str, str]:
    """Tags of a child run that say what the trial is; only an extension changes them."""
    tags = {
        "orchestrator.kind": "trial",
        "study_id": study.study_id,
        "trial_id": trial.trial_id,
        "trial_number": str(trial.number),
        "device_kind": str(study.device_kind or ""),
        "variant_key": trial.variant.key,
        "algorithm": trial.variant.algorithm,
        "overrides": _overrides(trial.variant.overrides),
        "tenant": study.tenant,
        **_revision_tags(study),
    }
    return tags | {"cloned_from": trial.cloned_from} if trial.cloned_from else tags


def state_tags(trial: Trial, charge: Charge = NO_CHARGE) -> dict[str, str]:
    """Tags of a child run that follow the trial's state; `error` goes when the trial gets another chance. Of a trial
    that has been in stacks: which, in order, and the most members that one of them had."""
    tags = {
        "state": str(trial.state),
        "attempt": str(trial.attempt),
        "preemptions": str(trial.preemptions),
        "stages_reused": str(len(trial.reused_stages)),
    }
    if charge.stack_ids:
        tags |= {"stack_ids": " ".join(charge.stack_ids), "stack_width": str(charge.width)}
    return tags | {ERROR_TAG: shorten_error(trial.error)} if trial.error else tags


def study_status(states: Collection[str]) -> RunStatus:
    """The end of a study whose trials ended in `states`: KILLED if every one of them was cancelled."""
    return RunStatus.KILLED if set(states) == {str(TrialState.CANCELLED)} else RunStatus.FINISHED


def run_name(trial: Trial) -> str:
    """`003 grpo lr=0.001 seed=2`: sorts by number and reads without opening the run, in a chart's legend too."""
    swept = [redacted_override(text) for text in trial.variant.overrides if not text.startswith("algorithm=")]
    name = " ".join([f"{trial.number:03d}", trial.variant.algorithm, *_shortened(swept)])
    return name if len(name) <= MAX_RUN_NAME_CHARS else name[: MAX_RUN_NAME_CHARS - 1] + "…"


def final_metrics(trial: Trial, charge: Charge = NO_CHARGE) -> dict[str, float]:
    """What an ended trial achieved and what it cost [device-seconds]: `gpu_seconds` held, its part of vacated seats
    included, of them `gpu_seconds_fused` in stacks if it has been in one."""
    gpu_seconds = charged(trial, charge).gpu_seconds
    metrics = {**trial.metrics, "gpu_seconds": gpu_seconds, "budget_fraction": trial.budget_fraction}
    return readable(metrics | {"gpu_seconds_fused": charge.fused_s} if charge.stack_ids else metrics)


def final_step(trial: Trial) -> int:
    """How far the trial came on the step axis of its last stage, where its final metrics belong."""
    last = trial.variant.stages[-1]
    if trial.stage_index >= len(trial.variant.stages):
        return last.budget_steps
    return round(trial.progress * last.budget_steps) if trial.stage_index == len(trial.variant.stages) - 1 else 0


def readable(metrics: Mapping[str, float]) -> dict[str, float]:
    """Final values in the digits that a table's cell holds: seven that count, and every digit of a whole number."""
    return {
        name: value if not math.isfinite(value) or value == int(value) else float(f"{value:.7g}")
        for name, value in metrics.items()
    }


def error_text(trial: Trial) -> str:
    """All of a trial's error, for a file."""
    return redacted_text(trial.error)


def shorten_error(error: str) -> str:
    """The end of an error, where a traceback says what went wrong, in at most `MAX_ERROR_TAG_CHARS` characters."""
    text = redacted_text(error.strip())
    return text if len(text) <= MAX_ERROR_TAG_CHARS else "…" + text[-(MAX_ERROR_TAG_CHARS - 1) :]


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Nested config as dotted names and text values: numbers, booleans, lists and null as in JSON, strings as they are.

    Nothing is shortened; an empty mapping stays visible as `{}`.
    """
    return {name: value if isinstance(value, str) else _json(value) for name, value in _leaves(redacted(config), "")}


def config_yaml(config: Mapping[str, Any]) -> str:
    """The resolved config as YAML in its own order; enums and tuples become plain text and lists."""
    import yaml

    return yaml.safe_dump(_plain(redacted(config)), sort_keys=False, allow_unicode=True)


def _overrides(texts: Sequence[str]) -> str:
    return " ".join(redacted_override(text) for text in texts)


def _shortened(overrides: Sequence[str]) -> list[str]:
    """`lr=0.001` for `optimizer.lr=0.001`, unless another override ends in the same word."""
    names = [text.partition("=")[0] for text in overrides]
    last = [name.rpartition(".")[2] for name in names]
    uses = Counter(last)
    return [
        text if uses[short] > 1 else short + text[len(name) :]
        for text, name, short in zip(overrides, names, last, strict=True)
    ]


def _revision_tags(study: Study) -> dict[str, str]:
    """The revision under our own name and under the one that MLflow's pages link; nothing if it is unknown."""
    if not study.git_revision:
        return {}
    return {"git revision": study.git_revision, "mlflow.source.git.commit": study.git_revision}


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)
