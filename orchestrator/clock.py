"""The clock that live studies run on."""

import time


class SystemClock:
    """Seconds since the epoch that never go back, whatever is done to the system's clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._offset + time.monotonic()
