"""Dataclasses <-> rows of the tables. Whoever reads a row takes it over: it is used up."""

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

from orchestrator.schema import (
    Allocation,
    Command,
    CommandKind,
    Device,
    DeviceKind,
    EarlyStop,
    Evaluation,
    Fate,
    Holder,
    JournalEntry,
    JournalKind,
    Lease,
    Role,
    Study,
    Token,
    Trial,
    TrialState,
    Variant,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = dict[str, Any]


@cache
def _names(kind: type["DataclassInstance"], without: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.name not in without)


def row_of(item: "DataclassInstance", *without: str) -> Row:
    """The fields as they are, not copied as `dataclasses.asdict` does, but for those of the names `without`."""
    return {name: getattr(item, name) for name in _names(type(item), without)}


def trial_fields(trial: Trial) -> Row:
    """Everything but its ids and its variant, as plain data."""
    return row_of(trial, "trial_id", "study_id", "variant") | {
        "state": trial.state.value,
        "metrics": dict(trial.metrics),
        "latest": dict(trial.latest),
        "reused_stages": list(trial.reused_stages),
        "stopped": None if trial.stopped is None else row_of(trial.stopped),
    }


def study_of(row: Row) -> Study:
    """From the table `studies`."""
    kind = row["device_kind"]
    row["device_kind"] = None if kind is None else DeviceKind(kind)
    row["sweep"] = tuple(row["sweep"])
    row["overrides"] = tuple(row["overrides"])
    return Study(**row)


def _evaluation(step: float, tokens: float, device_seconds: float, accuracy: float, folds: list[float]) -> Evaluation:
    return Evaluation(step, tokens, device_seconds, accuracy, tuple(folds))


def trial_of(row: Row, variant: Variant) -> Trial:
    """From the table `trials`."""
    row["variant"] = variant
    row["state"] = TrialState(row["state"])
    row["reused_stages"] = tuple(row["reused_stages"])
    row["evaluations"] = tuple(_evaluation(*values) for values in row["evaluations"])
    if (stop := row["stopped"]) is not None:
        row["stopped"] = EarlyStop(**stop | {"fate": Fate(stop["fate"])})
    return Trial(**row)


def allocation_of(row: Row) -> Allocation:
    """From the table `allocations`."""
    row["trial_ids"] = tuple(row["trial_ids"])
    row["device_ids"] = tuple(row["device_ids"])
    return Allocation(**row)


def device_of(row: Row) -> Device:
    """From the table `devices`."""
    row["kind"] = DeviceKind(row["kind"])
    return Device(**row)


def command_of(row: Row) -> Command:
    """From the table `commands`."""
    row["kind"] = CommandKind(row["kind"])
    return Command(**row)


def entry_of(row: Row) -> JournalEntry:
    """From the table `journal`."""
    row["kind"] = JournalKind(row["kind"])
    return JournalEntry(**row)


def lease_of(row: Row) -> Lease:
    """From the table `leases`."""
    row["holder"] = Holder(**row["holder"]) if row["holder"] else None
    del row["lease_id"], row["batch"]
    return Lease(**row)


def token_of(row: Row) -> Token:
    """From the table `tokens`."""
    row["role"] = Role(row["role"])
    return Token(**row)
