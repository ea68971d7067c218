"""What may go wrong with a store."""

from __future__ import annotations

from pointsman.errors import PointsmanError


class StoreError(PointsmanError, OSError):
    """The store refused: its file is no store, was written by a newer version, or a row cannot be written."""


class StoreUnavailableError(StoreError):
    """The store cannot take or give rows now: locked, its disk full, its server away. The same call may work later."""
