"""Which record doesn't fit what a store holds, in words.

`MemoryStore` asks before it writes. `DatabaseStore` leaves the refusing to the conditions of its statements, and asks
afterwards, for the message.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.events import Record, RecordAllocation, RecordAnswer, RecordMeasured, RecordStudy, RecordTrial
from orchestrator.schema import TrialState


@dataclass(slots=True)
class Held:
    """What a store holds of the things that records are about."""

    studies: set[str] = field(default_factory=set)
    trials: dict[str, TrialState] = field(default_factory=dict)
    lines: dict[str, bool] = field(default_factory=dict)
    """Ledger lines by bundle: whether they are open."""
    commands: dict[int, bool] = field(default_factory=dict)
    """Commands: whether they wait for an answer."""


def illegal_transition(records: Sequence[Record]) -> str:
    """The first record that asks for a transition that doesn't exist; "" if there is none."""
    for record in records:
        if isinstance(record, RecordTrial) and record.was and not record.was.may_become(record.trial.state):
            return f"trial {record.trial.trial_id}: {record.was} can't become {record.trial.state}"
    return ""


def misfit(records: Sequence[Record], held: Held) -> str:
    """The first record that doesn't fit; "" if all do. `held` is carried on as if they were written."""
    for record in records:
        match record:
            case RecordStudy():
                held.studies.add(record.study.study_id)
                found = ""
            case RecordTrial():
                found = _trial_misfit(record, held)
            case RecordAllocation():
                found = _line_misfit(record, held)
            case RecordMeasured():
                found = _not_open(record.bundle_id, held)
            case RecordAnswer():
                found = _answer_misfit(record, held)
            case _:
                found = ""
        if found:
            return found
    return ""


def _trial_misfit(record: RecordTrial, held: Held) -> str:
    trial = record.trial
    found = held.trials.get(trial.trial_id)
    if record.was is None and trial.study_id not in held.studies:
        return f"trial {trial.trial_id}: there is no study {trial.study_id}"
    if record.was is not found:
        return f"trial {trial.trial_id}: expected {record.was or 'none'}, found {found or 'none'}"
    held.trials[trial.trial_id] = trial.state
    return ""


def _line_misfit(record: RecordAllocation, held: Held) -> str:
    line = record.allocation
    found = held.lines.get(line.bundle_id)
    opens = line.closed_at is None
    if opens and found is not None:
        return f"bundle {line.bundle_id}: its line is in the ledger already"
    if opens and line.study_id not in held.studies:
        return f"bundle {line.bundle_id}: there is no study {line.study_id}"
    if not opens and (refusal := _not_open(line.bundle_id, held)):
        return refusal
    held.lines[line.bundle_id] = opens
    return ""


def _not_open(bundle_id: str, held: Held) -> str:
    found = held.lines.get(bundle_id)
    if found:
        return ""
    return f"bundle {bundle_id}: {'it has no line in the ledger' if found is None else 'its line is closed'}"


def _answer_misfit(record: RecordAnswer, held: Held) -> str:
    found = held.commands.get(record.command_id)
    if not found:
        return f"command {record.command_id}: {'there is none' if found is None else 'it is answered already'}"
    held.commands[record.command_id] = False
    return ""
