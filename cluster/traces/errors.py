"""What readers do with rows that they can't use: say where they stand, or count them."""

from orchestrator.ports import TraceError

__all__ = ["MAX_DEVICES_PER_NODE", "BadRow", "Rows", "TraceError"]

# More devices than this are no node's.
MAX_DEVICES_PER_NODE = 1024

_SKIP = "or leave such rows out by --skip-bad-rows"


class BadRow(Exception):
    """A row that can't be used: what is wrong with it and what would do. `Rows` knows where it stands."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy


class Rows:
    """The rows of one file. With `skip` broken ones are counted in `skipped`, else the first one is refused."""

    def __init__(self, file: str, *, skip: bool) -> None:
        self.file = file
        self.skipped = 0
        self._skip = skip

    def refuse(self, line: int, error: BadRow) -> None:
        """Raises TraceError for the row in `line`, or counts it."""
        if not self._skip:
            raise TraceError(self.file, line, error.what, f"{error.remedy}, {_SKIP}") from None
        self.skipped += 1
