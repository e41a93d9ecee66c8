"""Reader of our own trace format: a CSV of stages and, where it is known, a CSV of the nodes they ran on.

`orchestrator.schema.trace_table` has the columns. Files that end in `.gz` are unpacked on the way. What can't be used
is a `TraceError`; with `skip_bad_rows` the whole trial it belongs to is left out instead, and its rows are counted.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from cluster.traces.errors import MAX_DEVICES_PER_NODE, BadRow, Rows, TraceError
from orchestrator.schema import Demand, Device, DeviceKind, Node, Trace, TraceStage, TraceTrial
from orchestrator.schema.trace_table import ASSIGNED, GIB, NODE_COLUMNS, SEPARATOR, STAGE_COLUMNS, Column

_DEMAND_COLUMNS = (
    "devices",
    "share",
    "memory_gib",
    "cpus",
    "host_memory_gib",
    "models",
    "max_nodes",
    "kind",
    "max_slowdown",
)
# A share of less than a millionth is none. No machine has so much memory [GiB], or as many devices in a row.
_LEAST_SHARE, _MOST_GIB, _MOST_CORES, _MOST_DEVICES = 1e-6, 1e9, 1e9, 10**9
_OF_TRIAL = ("study", "tenant", "priority", "submitted_s")


def read(*, file: str, nodes: str = "", skip_bad_rows: bool = False) -> Trace:
    """The trials of `file` in order of submission, and the nodes of the file `nodes` if one is named.

    Raises TraceError, naming file, line, column, value and what would do.
    """
    rows, node_rows = Rows(file, skip=skip_bad_rows), Rows(nodes, skip=skip_bad_rows)
    known = _nodes(_Table(nodes, NODE_COLUMNS), node_rows) if nodes else ()
    trials = list(_Trials(_Table(file, STAGE_COLUMNS), rows))
    if not trials:
        what = f"holds no trial that can be used ({rows.skipped} rows are broken)"
        raise TraceError(file, 0, what, "name another file as trace.file")
    return Trace(
        name=Path(file).name.removesuffix(".gz").removesuffix(".csv"),
        trials=tuple(sorted(trials, key=lambda trial: trial.submitted_at)),
        nodes=known,
        skipped_rows=rows.skipped + node_rows.skipped,
        file=file,
    )


# --- tables ----------------------------------------------------------------------------------------------------------


class _BadCell(BadRow):
    """`line` has it."""

    def __init__(self, line: int, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.line = line


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a file. `cells` by column, defaults filled in; `complete`: it has as many as the header."""

    line: int
    cells: Mapping[str, str]
    complete: bool

    def bad(self, column: str, remedy: str) -> _BadCell:
        return _BadCell(self.line, f"{column}={self.cells[column]!r}", remedy)

    def checked(self) -> "_Row":
        if not self.complete:
            raise _BadCell(self.line, "has too few cells, or too many", "give each column of the header one")
        return self

    def text(self, column: str) -> str:
        if not self.cells[column]:
            raise self.bad(column, "write one in every row")
        return self.cells[column]

    def number(self, column: str, most: float = math.inf) -> float:
        try:
            value = float(self.cells[column])
        except ValueError:
            raise self.bad(column, "write a number") from None
        if not math.isfinite(value) or value < 0.0:
            raise self.bad(column, "write 0 or more")
        if value > most:
            raise self.bad(column, f"write at most {most:g}")
        return value

    def whole(self, column: str, least: int | None = 0, most: int | None = None) -> int:
        try:
            value = int(self.cells[column])
        except ValueError:
            raise self.bad(column, "write a whole number") from None
        if least is not None and value < least:
            raise self.bad(column, f"write a whole number of at least {least}")
        if most is not None and value > most:
            raise self.bad(column, f"write a whole number of at most {most}")
        return value

    def bytes_of(self, column: str) -> int:
        return round(self.number(column, most=_MOST_GIB) * GIB)


class _Table:
    """A CSV file with known columns, read line by line."""

    def __init__(self, path: str, columns: Sequence[Column]) -> None:
        self.path = path
        self._columns = columns

    def __iter__(self) -> Iterator[_Row]:
        defaults = {c.name: c.default for c in self._columns if c.default is not None}
        with self._open() as file:
            reader = csv.reader(file)
            header = self._header(next(reader, []))
            for cells in reader:
                if cells:
                    given = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
                    row = {**dict.fromkeys(header[: len(cells)], ""), **defaults, **given}
                    yield _Row(reader.line_num, row, len(cells) == len(header))

    @contextmanager
    def _open(self) -> Iterator[TextIO]:
        try:
            if self.path.endswith(".gz"):
                with gzip.open(self.path, "rt", encoding="utf-8-sig", newline="") as file:
                    yield file
            else:
                with open(self.path, encoding="utf-8-sig", newline="") as file:
                    yield file
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise TraceError(self.path, 0, f"can't be read: {reason}", "name a file that is there") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise TraceError(self.path, 0, f"is no CSV text: {error}", "write it as UTF-8 CSV with a header") from None

    def _header(self, header: list[str]) -> list[str]:
        names = [column.name for column in self._columns]
        remedy = f"the columns are {','.join(names)}"
        missing = [c.name for c in self._columns if c.default is None and c.name not in header]
        if missing:
            raise TraceError(self.path, 1, f"no column {', '.join(missing)}", remedy)
        for name in header:
            if name not in names or header.count(name) > 1:
                what = "two columns are" if name in names else "a column is"
                raise TraceError(self.path, 1, f"{what} named {name!r}", remedy)
        return header


# --- nodes -----------------------------------------------------------------------------------------------------------


def _nodes(table: _Table, rows: Rows) -> tuple[Node, ...]:
    """The nodes in order of the file."""
    nodes: dict[str, Node] = {}
    for row in table:
        try:
            node_id = row.checked().text("node")
            nodes[node_id] = _with_devices(row, nodes.get(node_id))
        except _BadCell as error:
            rows.refuse(error.line, error)
    if not nodes:
        raise TraceError(table.path, 0, "holds no node that can be used", "name another file as trace.nodes")
    return tuple(nodes.values())


def _with_devices(row: _Row, node: Node | None) -> Node:
    cpus, host_memory_bytes = row.number("cpus", most=_MOST_CORES), row.bytes_of("host_memory_gib")
    if node is not None and (node.cpus, node.host_memory_bytes) != (cpus, host_memory_bytes):
        raise row.bad("node", "cpus and host_memory_gib are the node's: write the same in all of its rows")
    if row.cells["kind"] not in set(DeviceKind):
        raise row.bad("kind", f"use {' or '.join(DeviceKind)}")
    node_id, kind, before = row.text("node"), DeviceKind(row.cells["kind"]), node.devices if node else ()
    memory_bytes = row.bytes_of("memory_gib")
    added = tuple(
        Device(
            device_id=f"{node_id}/{kind.value}{index}",
            node_id=node_id,
            index=index,
            kind=kind,
            memory_bytes=memory_bytes,
            model=row.cells["model"],
        )
        for index in range(len(before), len(before) + row.whole("devices", most=MAX_DEVICES_PER_NODE))
    )
    return Node(node_id=node_id, devices=(*before, *added), cpus=cpus, host_memory_bytes=host_memory_bytes)


# --- trials ----------------------------------------------------------------------------------------------------------


class _Trials:
    """The trials of a file, in its order."""

    def __init__(self, table: _Table, rows: Rows) -> None:
        self._table = table
        self._rows = rows
        self._seen: set[str] = set()
        self._demands: dict[tuple[str, ...], Demand] = {}
        # The first run of each key, with the line that has it.
        self._shared: dict[str, tuple[TraceStage, int]] = {}

    def __iter__(self) -> Iterator[TraceTrial]:
        for rows in self._by_trial():
            try:
                trial = self._trial(rows)
            except _BadCell as error:
                self._rows.refuse(error.line, error)
                self._rows.skipped += len(rows) - 1
            else:
                yield trial

    def _by_trial(self) -> Iterator[list[_Row]]:
        """Rows that follow one another and name one trial; one too short to name any goes with those before it."""
        rows: list[_Row] = []
        for row in self._table:
            trial_id = rows[0].cells.get("trial") if rows else None
            if rows and row.cells.get("trial", trial_id) != trial_id:
                yield rows
                rows = []
            rows.append(row)
        if rows:
            yield rows

    def _trial(self, rows: list[_Row]) -> TraceTrial:
        first = rows[0].checked()
        trial_id = first.text("trial")
        if trial_id in self._seen:
            raise first.bad(
                "trial", "it is there already: a trial's rows follow one another, and ids are not used twice"
            )
        self._seen.add(trial_id)
        for row in rows[1:]:
            for column in _OF_TRIAL:
                if row.checked().cells[column] != first.cells[column]:
                    remedy = f"it is the trial's: write {first.cells[column]!r} as on line {first.line}"
                    raise row.bad(column, remedy)
        stages = tuple(self._stage(row) for row in rows)
        for stage, row in zip(stages, rows, strict=True):
            if stage.key:
                self._shared.setdefault(stage.key, (stage, row.line))
        return TraceTrial(
            trial_id=trial_id,
            study_id=first.text("study"),
            submitted_at=first.number("submitted_s"),
            stages=stages,
            tenant=first.text("tenant"),
            priority=first.whole("priority", least=None),
            line=first.line,
        )

    def _stage(self, row: _Row) -> TraceStage:
        duration_s, demand = row.number("duration_s"), self._demand(row)
        stage = TraceStage(
            name=row.text("stage"),
            demand=demand,
            duration_s=duration_s,
            key=row.cells["stage_key"],
            phases=_phases(row, duration_s),
        )
        known, line = self._shared.get(stage.key, (stage, row.line))
        if (known.duration_s, known.demand) != (duration_s, demand):
            raise row.bad("stage_key", f"it is the run of line {line}: write that one's duration and demand")
        return known if known == stage else stage

    def _demand(self, row: _Row) -> Demand:
        cells = tuple(row.cells[column] for column in _DEMAND_COLUMNS)
        if cells not in self._demands:
            self._demands[cells] = _demand(row)
        return self._demands[cells]


def _demand(row: _Row) -> Demand:
    share = row.number("share", most=1.0)
    if share < _LEAST_SHARE:
        raise row.bad("share", "use a fraction above 0 and at most 1")
    max_slowdown = row.number("max_slowdown")
    if 0.0 < max_slowdown < 1.0:
        raise row.bad("max_slowdown", "use 0 for any slowdown, or at least 1, such as 1.5")
    models = tuple(filter(None, row.cells["models"].split(SEPARATOR)))
    return Demand(
        devices=row.whole("devices", most=_MOST_DEVICES),
        share=share,
        memory_bytes=row.bytes_of("memory_gib"),
        cpus=row.number("cpus", most=_MOST_CORES),
        host_memory_bytes=row.bytes_of("host_memory_gib"),
        models=models,
        max_nodes=row.whole("max_nodes", least=1),
        kind=row.cells["kind"],
        max_slowdown=max_slowdown,
    )


_NO_PHASES: Mapping[str, float] = {}


def _phases(row: _Row, duration_s: float) -> Mapping[str, float]:
    if not row.cells["phases"]:
        return _NO_PHASES
    phases: dict[str, float] = {}
    for part in row.cells["phases"].split(SEPARATOR):
        name, assigned, seconds = part.rpartition(ASSIGNED)
        try:
            phases[name] = float(seconds)
        except ValueError:
            assigned = ""
        if not name or not assigned or not phases[name] >= 0.0:
            raise row.bad("phases", "write them as rollout=40.0|learn=20.0 [s]")
    if sum(phases.values()) > duration_s * (1 + 1e-6):
        raise row.bad("phases", f"together they are longer than duration_s={duration_s:g}")
    return phases
