"""What the core needs from the outside, as Protocols. Each has one contract suite under tests/contracts/."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from orchestrator.events import Event, Launch, Record, RecordStudy, RecordTrial
from orchestrator.schema import (
    NO_CHARGE,
    Allocation,
    Charge,
    Command,
    Device,
    Holder,
    JournalEntry,
    Lease,
    Outcome,
    Prediction,
    Study,
    Token,
    Trial,
)
from orchestrator.schema.caching import CacheEntry


class ClusterUnavailable(Exception):
    """The cluster can't be reached or can't give what the config asks for. The message says what would do."""


class TrackingUnavailable(Exception):
    """The tracking server can't be reached or written. The message names the address and what would do."""


class StoreUnavailable(Exception):
    """The store can't be reached or written now: locked, away, or its disk is full. Later it may be."""


class LeaseLost(Exception):
    """Another process leads by now; nothing of the refused call was written."""


class TraceError(Exception):
    """A trace can't be used: the message names the file, the line (0: all of it), what is wrong and what would do."""

    def __init__(self, file: str | Path, line: int, what: str, remedy: str) -> None:
        super().__init__(f"{file}:{line}: {what}; {remedy}" if line else f"{file}: {what}; {remedy}")
        self._parts = file, line, what, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels between processes."""
        return type(self), self._parts


class TransitionRefused(Exception):
    """A record doesn't fit what the store holds (another state than `was`, a closed ledger line, an unknown trial), or
    asks for a transition that doesn't exist. Nothing of the refused call was written."""


class Cluster(Protocol):
    """Where bundles run. Calls return quickly; what happens comes back through `poll`."""

    def check(self) -> None:
        """Raises ClusterUnavailable, within seconds, if the devices asked for can't be had. Takes none."""

    def start(self) -> None:
        """Take hold of the devices; `NodeJoined` follows through `poll`. Raises ClusterUnavailable.

        An earlier leader of the same store that still holds them (it hangs, it was paused) is made to let go, its
        bundles with it, before any device is offered here. May be called again after `close`.
        """

    def launch(self, launch: Launch) -> None:
        """Start a bundle. Whatever goes wrong comes back as an event of that bundle."""

    def stop(self, bundle_id: str, reason: str) -> None:
        """Ask a bundle to end at its next step boundary; unknown and ended bundles are ignored."""

    def poll(self, timeout_s: float) -> list[Event]:
        """The events since the last call, in the order they happened per bundle; waits for the first one at most
        `timeout_s`. Every launched bundle ends in exactly one of StageCompleted, StageRaised, WorkerLost,
        MemoryExceeded, BundleStopped, and nothing of it follows. Raises ClusterUnavailable once no node will ever come
        back by itself (the Ray head is gone): then `close` and `start` are what is left."""

    def available_outputs(self, stage_keys: Sequence[str]) -> set[str]:
        """Those of `stage_keys` whose committed output is there and verifies against its checksums."""

    def keep_checkpoint(self, study_id: str, stage_key: str) -> tuple[str, int] | None:
        """Keep the newest checkpoint of a stage for warm stages to start from: its name, a plain file name that is the
        same whenever the same checkpoint is kept again, and its step. None if there is no checkpoint."""

    def close(self) -> None:
        """Kill what still runs and let go of the devices. Safe to call twice."""


class OutputCache(Protocol):
    """The artifacts that studies leave, as entries that are removed whole. Others read and write them meanwhile."""

    def entries(self) -> list[CacheEntry]:
        """All there are, those that are being written too."""

    def verifies(self, entry: CacheEntry) -> bool | None:
        """Whether every byte is as it was committed; None for an entry that nobody can tell of."""

    def hide(self, entry: CacheEntry) -> str | None:
        """Take an entry out of its place at once, whole; where it is now. None if it is gone, or was used since
        `entries` looked."""

    def put_back(self, entry: CacheEntry, place: str) -> None:
        """Undo `hide`."""

    def delete(self, place: str) -> None:
        """Delete what was hidden."""

    def delete_leftovers(self, now: float) -> None:
        """Delete what somebody had hidden who died long ago, and notes of what is gone."""


class Tracker(Protocol):
    """Where leads look. Called by whoever forwards the journal, in its order; a call that was interrupted, or whose
    process died, is made again, and nothing is then there twice. Calls block; they raise what the backend raises."""

    def check(self) -> None:
        """Raises TrackingUnavailable, within seconds, if records can't arrive."""

    def study_started(self, study: Study) -> None:
        """Open the study's run, or open it again: the study is new, was changed, or goes on after its end."""

    def trial_changed(self, study: Study, trial: Trial, charge: Charge = NO_CHARGE) -> None:
        """The trial's state changed; the first call opens its run, a terminal state ends it, a later one reopens it.
        `charge`: for its part in stacks, up to then, told with a terminal state."""

    def points(self, study: Study, trial_id: str, points: Sequence[JournalEntry]) -> None:
        """Points of one trial's series, in order."""

    def study_finished(self, study: Study, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        """Log the throughput numbers and the report's files on the parent run and end it."""

    def refused(self, error: Exception) -> bool:
        """Whether the backend answered that it will never take the record (an answer of class 4xx): drop it."""

    def answers(self) -> bool:
        """Whether the backend is there at all; if not, an error says nothing about the record."""

    def where_to_look(self, study_id: str) -> str:
        """How a person opens the study's comparison: a command or an address; empty if there is nothing to open."""


class LeaderStore(Protocol):
    """What a scheduling loop asks of a store, and all that it asks. A simulation gives it a recorder instead.

    Any call raises StoreUnavailable while the store is locked, away or full.
    """

    def apply(self, records: Sequence[Record], *, term: int = 0, batch: int = 0) -> None:
        """All of them or none, committed when the call returns; the lease's beat goes on in the same transaction.

        `term` is the caller's lease; with 0 nobody's lease is asked for (tests, simulations). `batch` counts the calls
        of a term from 1: a call that is repeated, because its answer was lost, changes nothing. Raises LeaseLost if
        the lease is of another term, TransitionRefused as that says.
        """

    def pending_commands(self) -> list[Command]:
        """Those not answered, oldest first."""

    def completed_stages(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """Those of `keys` that some study completed, with the outcome."""

    def study(self, study_id: str) -> Study:
        """Raises KeyError."""

    def studies(self, *, open_only: bool = False) -> list[Study]:
        """Oldest first; `open_only`: those that have not ended."""

    def trials(self, study_id: str) -> list[Trial]:
        """By number."""

    def trial(self, trial_id: str) -> Trial:
        """Raises KeyError."""

    def allocations(self, study_id: str | None = None) -> list[Allocation]:
        """The ledger, of one study or of all, by the time its lines were opened."""

    def predictions(self, study_id: str) -> list[Prediction]:
        """By trial id."""


class Store(LeaderStore, Protocol):
    """The durable truth, for everybody. Any call raises StoreUnavailable while the store is locked, away or full."""

    # --- the lease ---------------------------------------------------------------------------------------------------

    def lease(self) -> Lease:
        """As it is now; term 0 and no holder if nobody ever led."""

    def take_lease(self, seen: Lease, holder: Holder, config: Mapping[str, object], at: float) -> Lease | None:
        """A lease of the next term, if the lease still is as `seen`, its beat included. None if it isn't."""

    def renew_lease(self, term: int, at: float) -> None:
        """A sign of life. Raises LeaseLost."""

    def release_lease(self, term: int, at: float) -> None:
        """Give the lease back; nothing happens if it is of another term."""

    # --- anybody's ---------------------------------------------------------------------------------------------------

    def allocations_about(self, study_id: str) -> list[Allocation]:
        """The ledger's lines of a study, and those that held a part of the device of one of its stacks while that ran
        (see `accounting.about`), by the time they were opened."""

    def submit(self, command: Command, study: RecordStudy | None = None, trials: Sequence[RecordTrial] = ()) -> int:
        """Queue a command, and the new study with its trials that it is about, in one transaction. Its id."""

    def command(self, command_id: int) -> Command:
        """Raises KeyError."""

    def devices(self) -> list[Device]:
        """As the leader last recorded them, by node and index."""

    # --- the journal and its forwarder -------------------------------------------------------------------------------

    def journal(self, after: int, limit: int, *, trial_id: str = "") -> list[JournalEntry]:
        """The next `limit` entries behind sequence number `after`, of one trial if one is named."""

    def journal_end(self, study_id: str = "") -> int:
        """The sequence number of the last entry (of a study, if one is named); 0 if there is none."""

    def forwarded(self) -> int:
        """Up to which sequence number the tracker has the journal."""

    def set_forwarded(self, sequence: int) -> None: ...

    # --- access ------------------------------------------------------------------------------------------------------

    def add_token(self, token: Token) -> None:
        """Raises KeyError if its name is taken."""

    def token(self, digest: str) -> Token | None:
        """The token of that digest, revoked or not."""

    def tokens(self) -> list[Token]:
        """By name."""

    def revoke_token(self, name: str, at: float) -> None:
        """Raises KeyError."""

    def close(self) -> None: ...


class Clock(Protocol):
    """Seconds since the epoch; never goes back."""

    def now(self) -> float: ...
