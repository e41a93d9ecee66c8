"""What the core needs from the outside, as Protocols. Each has one contract suite under tests/contracts/."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from orchestrator.events import Event, Launch, Record
from orchestrator.schema import Allocation, Outcome, Study, Trial


class ClusterUnavailable(Exception):
    """The cluster can't be reached or can't give what the config asks for. The message says what would do."""


class TrackingUnavailable(Exception):
    """The tracking server can't be reached or written. The message names the address and what would do."""


class Cluster(Protocol):
    """Where bundles run. Calls return quickly; what happens comes back through `poll`."""

    def check(self) -> None:
        """Raises ClusterUnavailable, within seconds, if the devices asked for can't be had. Takes none."""

    def start(self) -> None:
        """Take hold of the devices; `NodeJoined` follows through `poll`. Raises ClusterUnavailable."""

    def launch(self, launch: Launch) -> None:
        """Start a bundle. Whatever goes wrong comes back as an event of that bundle."""

    def stop(self, bundle_id: str, reason: str) -> None:
        """Ask a bundle to end at its next step boundary; unknown and ended bundles are ignored."""

    def poll(self, timeout_s: float) -> list[Event]:
        """The events since the last call, in the order they happened per bundle; waits for the first one at most
        `timeout_s`. Every launched bundle ends in exactly one of StageCompleted, StageRaised, WorkerLost,
        BundleStopped, and nothing of it follows."""

    def available_outputs(self, stage_keys: Sequence[str]) -> set[str]:
        """Those of `stage_keys` whose committed output is there and verifies against its checksums."""

    def close(self) -> None:
        """Kill what still runs and let go of the devices. Safe to call twice."""


class Tracker(Protocol):
    """Where leads look. Calls never block on the network or a database: they are buffered, in order."""

    def check(self) -> None:
        """Raises TrackingUnavailable, within seconds, if records can't arrive. The only blocking call but `close`."""

    def study_started(self, study: Study) -> None: ...

    def trial_changed(self, trial: Trial) -> None:
        """The trial's state changed; the first call opens its run, a terminal state ends it."""

    def metrics(self, trial_id: str, step: int, metrics: Mapping[str, float], at: float) -> None: ...

    def study_finished(self, study: Study, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        """Log the throughput numbers and the report's files on the parent run and end it."""

    def where_to_look(self, study_id: str) -> str:
        """How a person opens the study's comparison: a command or an address; empty if there is nothing to open."""

    def close(self, timeout_s: float) -> bool:
        """Write out what is buffered. False if that did not finish in `timeout_s`."""


class Store(Protocol):
    """The durable truth."""

    def apply(self, records: Sequence[Record]) -> None:
        """All of them or none, committed when the call returns."""

    def study(self, study_id: str) -> Study:
        """Raises KeyError."""

    def studies(self) -> list[Study]:
        """Oldest first."""

    def trials(self, study_id: str) -> list[Trial]:
        """By number."""

    def allocations(self, study_id: str) -> list[Allocation]:
        """By the time they were opened."""

    def completed_stages(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """Those of `keys` that some study completed, with the outcome."""

    def close(self) -> None: ...


class Clock(Protocol):
    """Seconds since the epoch; never goes back."""

    def now(self) -> float: ...
