"""The ledger's lines: what runs, and what ran, found by the study that they concern."""

from collections.abc import Collection, Iterable, Iterator

from orchestrator.accounting import about
from orchestrator.schema import Allocation
from orchestrator.state.records import Bundle


class Ledger:
    """Open lines by the study that their bundle runs for; closed ones by that study and by those of the trials that
    were charged, for as long as these are known. Iterating gives every closed line once."""

    def __init__(self) -> None:
        self._open: dict[str, dict[str, Bundle]] = {}
        self._closed: dict[str, list[Allocation]] = {}

    def __iter__(self) -> Iterator[Allocation]:
        return iter({line.bundle_id: line for lines in self._closed.values() for line in lines}.values())

    def open(self, bundle: Bundle) -> None:
        """A bundle runs."""
        self._open.setdefault(bundle.launch.study_id, {})[bundle.launch.bundle_id] = bundle

    def close(self, bundle: Bundle) -> None:
        """A bundle runs no more; its line comes by `add`."""
        of_study = self._open[bundle.launch.study_id]
        del of_study[bundle.launch.bundle_id]
        if not of_study:
            del self._open[bundle.launch.study_id]

    def add(self, line: Allocation, study_ids: Iterable[str]) -> None:
        """A closed line that concerns these studies."""
        for study_id in study_ids:
            self._closed.setdefault(study_id, []).append(line)

    def concerning(self, study_id: str) -> Collection[Allocation]:
        """The closed lines that the study or its trials have to do with."""
        return self._closed.get(study_id, ())

    def of(self, study_id: str) -> list[Allocation]:
        """The lines of what ran, or runs, for the study; closed ones first."""
        closed = [line for line in self.concerning(study_id) if line.study_id == study_id]
        return closed + [bundle.allocation for bundle in self._open.get(study_id, {}).values()]

    def about(self, study_id: str) -> list[Allocation]:
        """The lines of what ran, or runs, for the study, and those that held a part of the device of one of its stacks
        while that ran, as far as their studies are known (see `accounting.about`); closed ones first."""
        own = self.of(study_id)
        if not any(line.stack_id for line in own):
            return own
        running = [bundle.allocation for bundles in self._open.values() for bundle in bundles.values()]
        return about(study_id, [*self, *running])

    def forget(self, study_id: str) -> None:
        """Nobody asks for the study's closed lines any more."""
        self._closed.pop(study_id, None)
