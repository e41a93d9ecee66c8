"""CSV files with a header, row by row with line numbers; faults of the file itself are TraceErrors."""

import csv
import math
from collections.abc import Iterator, Sequence

from cluster.traces.errors import BadRow, TraceError


def rows_of(path: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str] | None]]:
    """Each row's line number and its cells in the order of `columns`; None for one that lacks cells or has too many.

    Other columns of the file are passed over, empty lines too. Raises TraceError if the file can't be read, is no CSV,
    or lacks a column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in header]
            if missing:
                raise TraceError(path, 1, f"no column {', '.join(missing)}", f"the header needs {','.join(columns)}")
            wanted, width = [header.index(name) for name in columns], len(header)
            for row in reader:
                if row:
                    yield reader.line_num, [row[i] for i in wanted] if len(row) == width else None
    except OSError as error:
        raise TraceError(path, 0, f"can't be read: {error.strerror}", "name a file that is there") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(path, 0, f"is no CSV text: {error}", "write it as UTF-8 CSV with a header") from None


# No machine has so much: cores in thousandths, MiB, samples. Bytes and thousandths of it are int64 anywhere.
_MOST = 10**9


def whole(name: str, text: str, most: int = _MOST) -> int:
    """A whole number from 0 to `most`. Raises BadRow."""
    try:
        value = int(text)
    except ValueError:
        raise BadRow(f"{name}={text!r} is no whole number", "write digits such as 1000") from None
    if value < 0:
        raise BadRow(f"{name}={text} is negative", "use 0 or more")
    if value > most:
        raise BadRow(f"{name}={text} is more than there can be", f"use at most {most}")
    return value


def seconds(name: str, text: str) -> float:
    """A finite time of 0 or more [s]. Raises BadRow."""
    try:
        value = float(text)
    except ValueError:
        raise BadRow(f"{name}={text!r} is no number of seconds", "write a number such as 3600") from None
    if not math.isfinite(value):
        raise BadRow(f"{name}={text} is not finite", "write a number such as 3600")
    if value < 0:
        raise BadRow(f"{name}={text} is negative", "count seconds from the start of the trace")
    return value
