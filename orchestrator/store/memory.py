"""A `ports.Store` that forgets when the process ends: for tests and simulations."""

import threading
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.accounting import about
from orchestrator.events import (
    Record,
    RecordAllocation,
    RecordAnswer,
    RecordDevices,
    RecordMeasured,
    RecordPredictions,
    RecordStage,
    RecordStudy,
    RecordTrial,
)
from orchestrator.ports import LeaseLost, TransitionRefused
from orchestrator.schema import (
    Allocation,
    Command,
    Device,
    Holder,
    JournalEntry,
    JournalKind,
    Lease,
    Outcome,
    Prediction,
    StageState,
    Study,
    Token,
    Trial,
)
from orchestrator.store.entries import journal_entries
from orchestrator.store.misfits import Held, illegal_transition, misfit


class MemoryStore:
    """Keeps the records as they are. May be used by several threads at once."""

    def __init__(self) -> None:
        # Reentrant: `submit` writes as `apply` does.
        self._lock = threading.RLock()
        self._studies: dict[str, Study] = {}
        self._trials: dict[str, Trial] = {}
        self._stages: dict[str, tuple[StageState, Outcome]] = {}
        self._allocations: dict[str, Allocation] = {}
        self._devices: tuple[Device, ...] = ()
        self._predictions: dict[str, Prediction] = {}
        self._commands: dict[int, Command] = {}
        self._tokens: dict[str, Token] = {}
        self._journal: list[JournalEntry] = []
        self._last_sequence = 0
        self._forwarded = 0
        self._lease = Lease(term=0, beat=0, beat_at=0.0, holder=None)
        self._batch = 0

    # --- the leader's -------------------------------------------------------------------------------------------------

    def apply(self, records: Sequence[Record], *, term: int = 0, batch: int = 0) -> None:
        with self._lock:
            if term and (term, batch) == (self._lease.term, self._batch):
                return
            if term and (term, batch - 1) != (self._lease.term, self._batch):
                raise LeaseLost(f"term {self._lease.term} at call {self._batch} is on, not {term} at {batch}")
            self._refuse_misfits(records)
            if term:
                self._batch = batch
                self._beat(time.time())
            self._write(records)
            for entry in journal_entries(records):
                self._last_sequence += 1
                self._journal.append(replace(entry, sequence=self._last_sequence))

    def _refuse_misfits(self, records: Sequence[Record]) -> None:
        held = Held(
            studies=set(self._studies),
            trials={
                r.trial.trial_id: self._trials[r.trial.trial_id].state
                for r in records
                if isinstance(r, RecordTrial) and r.trial.trial_id in self._trials
            },
            lines={
                bundle_id: self._allocations[bundle_id].closed_at is None
                for bundle_id in _lines_in(records)
                if bundle_id in self._allocations
            },
            commands={command_id: command.answered_at is None for command_id, command in self._commands.items()},
        )
        if refusal := illegal_transition(records) or misfit(records, held):
            raise TransitionRefused(refusal)

    def _write(self, records: Sequence[Record]) -> None:
        for record in records:
            match record:
                case RecordStudy():
                    self._studies[record.study.study_id] = record.study
                case RecordTrial():
                    self._write_trial(record)
                case RecordStage():
                    self._stages[record.stage.key] = (record.state, record.outcome)
                case RecordAllocation():
                    self._allocations[record.allocation.bundle_id] = record.allocation
                case RecordMeasured():
                    self._allocations[record.bundle_id] = replace(
                        self._allocations[record.bundle_id],
                        peak_memory_bytes=record.peak_memory_bytes,
                        utilisation=record.utilisation,
                    )
                case RecordDevices():
                    self._devices = record.devices
                case RecordAnswer():
                    self._commands[record.command_id] = replace(
                        self._commands[record.command_id], answered_at=record.at, ok=record.ok, answer=record.answer
                    )
                case RecordPredictions():
                    for prediction in record.predictions:
                        self._predictions.setdefault(prediction.trial_id, prediction)

    def _write_trial(self, record: RecordTrial) -> None:
        trial = record.trial
        if record.was is not None and not record.new_variant:
            trial = replace(trial, variant=self._trials[trial.trial_id].variant)
        self._trials[trial.trial_id] = trial

    def lease(self) -> Lease:
        return self._lease

    def take_lease(self, seen: Lease, holder: Holder, config: Mapping[str, object], at: float) -> Lease | None:
        with self._lock:
            if (seen.term, seen.beat) != (self._lease.term, self._lease.beat):
                return None
            self._lease = Lease(term=seen.term + 1, beat=seen.beat + 1, beat_at=at, holder=holder, config=config)
            self._batch = 0
            return self._lease

    def renew_lease(self, term: int, at: float) -> None:
        with self._lock:
            if term != self._lease.term:
                raise LeaseLost(f"term {term} is over")
            self._beat(at)

    def release_lease(self, term: int, at: float) -> None:
        with self._lock:
            if term == self._lease.term:
                self._beat(at)
                self._lease = replace(self._lease, holder=None)

    def _beat(self, at: float) -> None:
        self._lease = replace(self._lease, beat=self._lease.beat + 1, beat_at=at)

    def pending_commands(self) -> list[Command]:
        with self._lock:
            return [command for command in self._commands.values() if command.answered_at is None]

    def completed_stages(self, keys: Sequence[str]) -> dict[str, Outcome]:
        with self._lock:
            found = {key: self._stages[key] for key in keys if key in self._stages}
        return {key: outcome for key, (state, outcome) in found.items() if state is StageState.COMPLETED}

    # --- anybody's ----------------------------------------------------------------------------------------------------

    def submit(self, command: Command, study: RecordStudy | None = None, trials: Sequence[RecordTrial] = ()) -> int:
        records: list[Record] = [*trials] if study is None else [study, *trials]
        with self._lock:
            self._refuse_misfits(records)
            self._write(records)
            command_id = len(self._commands) + 1
            self._commands[command_id] = replace(command, command_id=command_id)
            return command_id

    def command(self, command_id: int) -> Command:
        return self._commands[command_id]

    def study(self, study_id: str) -> Study:
        return self._studies[study_id]

    def studies(self, *, open_only: bool = False) -> list[Study]:
        with self._lock:
            found = [study for study in self._studies.values() if not open_only or study.ended_at is None]
        return sorted(found, key=lambda study: (study.submitted_at, study.study_id))

    def trials(self, study_id: str) -> list[Trial]:
        with self._lock:
            found = [trial for trial in self._trials.values() if trial.study_id == study_id]
        return sorted(found, key=lambda trial: (trial.number, trial.trial_id))

    def trial(self, trial_id: str) -> Trial:
        return self._trials[trial_id]

    def allocations(self, study_id: str | None = None) -> list[Allocation]:
        with self._lock:
            found = [line for line in self._allocations.values() if study_id is None or line.study_id == study_id]
        return sorted(found, key=lambda line: (line.opened_at, line.bundle_id))

    def allocations_about(self, study_id: str) -> list[Allocation]:
        return about(study_id, self.allocations())

    def devices(self) -> list[Device]:
        return sorted(self._devices, key=lambda device: (device.node_id, device.index))

    def predictions(self, study_id: str) -> list[Prediction]:
        with self._lock:
            found = [prediction for prediction in self._predictions.values() if prediction.study_id == study_id]
        return sorted(found, key=lambda prediction: prediction.trial_id)

    # --- the journal and its forwarder --------------------------------------------------------------------------------

    def journal(self, after: int, limit: int, *, trial_id: str = "") -> list[JournalEntry]:
        with self._lock:
            later = self._journal[bisect_right(self._journal, after, key=lambda entry: entry.sequence) :]
        return [entry for entry in later if not trial_id or entry.trial_id == trial_id][:limit]

    def journal_end(self, study_id: str = "") -> int:
        with self._lock:
            found = (entry.sequence for entry in reversed(self._journal) if not study_id or entry.study_id == study_id)
            return next(found, 0)

    def forwarded(self) -> int:
        return self._forwarded

    def set_forwarded(self, sequence: int) -> None:
        """Points that the tracker has are dropped, as a database does."""
        with self._lock:
            self._forwarded = sequence
            self._journal = [e for e in self._journal if e.sequence > sequence or e.kind is not JournalKind.POINT]

    # --- access -------------------------------------------------------------------------------------------------------

    def add_token(self, token: Token) -> None:
        with self._lock:
            if token.name in self._tokens:
                raise KeyError(token.name)
            self._tokens[token.name] = token

    def token(self, digest: str) -> Token | None:
        return next((token for token in self.tokens() if token.digest == digest), None)

    def tokens(self) -> list[Token]:
        with self._lock:
            return sorted(self._tokens.values(), key=lambda token: token.name)

    def revoke_token(self, name: str, at: float) -> None:
        with self._lock:
            token = self._tokens[name]
            if token.revoked_at is None:
                self._tokens[name] = replace(token, revoked_at=at)

    def close(self) -> None:
        pass


def _lines_in(records: Sequence[Record]) -> set[str]:
    """The bundles whose lines of the ledger the records change."""
    opened_or_closed = {r.allocation.bundle_id for r in records if isinstance(r, RecordAllocation)}
    return opened_or_closed | {r.bundle_id for r in records if isinstance(r, RecordMeasured)}
