"""The connector with a save deadline that a test can wait for, well before a silent data plane's session ends."""

from __future__ import annotations

from shadowserve import config

config.SAVE_DEADLINE_S = 2.5

from shadowserve.connector import ShadowServeConnector  # noqa: E402

__all__ = ["ShadowServeConnector"]
