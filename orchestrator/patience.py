"""A store that goes away comes back: whoever must write waits for it, and says so once."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.ports import StoreUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S = 0.5


class Patience:
    """`pause` waits [s]."""

    def __init__(self, pause: Callable[[float], None]) -> None:
        self._pause = pause
        self._waiting_since: float | None = None

    def when_there(self, call: Callable[[], T]) -> T:
        """What `call` to the store returns, however long that is away; training goes on meanwhile."""
        while True:
            try:
                result = call()
            except StoreUnavailable as error:
                self._say_away(error)
                self._pause(RETRY_S)
            else:
                self._say_back()
                return result

    def if_there(self, call: Callable[[], T], otherwise: T) -> T:
        """What `call` to the store returns, or `otherwise` while it is away."""
        try:
            return call()
        except StoreUnavailable as error:
            self._say_away(error)
            return otherwise

    def _say_away(self, error: StoreUnavailable) -> None:
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            logger.warning("store: %s; waiting for it, training goes on", error)

    def _say_back(self) -> None:
        if self._waiting_since is not None:
            logger.warning("store: there again after %.0f s", time.monotonic() - self._waiting_since)
            self._waiting_since = None
