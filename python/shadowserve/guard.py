"""What keeps a fault of ours out of the engine: an exception raised in a hook ends every request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class Guard:
    """Runs hooks and turns exceptions into a default. Logs each hook's faults at most once a minute."""

    INTERVAL_S = 60.0

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._last_logged: dict[str, float] = {}
        self.faults = 0

    def run(self, hook: str, action: Callable[[], _T], default: _T) -> _T:
        try:
            return action()
        except Exception:
            self.faults += 1
            now = self._clock()
            if now - self._last_logged.get(hook, -self.INTERVAL_S) >= self.INTERVAL_S:
                self._last_logged[hook] = now
                self._logger.exception("shadowserve: %s failed, the engine goes on without it", hook)
            return default
