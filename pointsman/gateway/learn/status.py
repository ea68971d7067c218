"""What the learner says of itself, for whoever watches it: one small file beside the routers, replaced whole."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FILE = "learner.json"


@dataclass(frozen=True, kw_only=True)
class LearnerStatus:
    """A learner after one of its turns. Counts go on over restarts, as long as the file is there.

    Attributes:
        at: When the turn ended, in Unix seconds.
        learned_through: The last feedback that the current version has learned, by its place in the order.
        waiting: Feedback that it has not; None where the store could not say.
        n_learned: Feedback read, in all.
        last_error: Name of the exception that ended the turn; None where it went well.
        n_promoted: Refits that were promoted.
        n_kept_in_shadow: Refits that were not shown to be good enough for that.
        last_refit: Version of the last refit; None where there was none, or nothing to fit.
        last_refit_why: What was said of it.
    """

    at: float = 0.0
    learned_through: int = 0
    waiting: int | None = None
    n_learned: int = 0
    last_error: str | None = None
    n_promoted: int = 0
    n_kept_in_shadow: int = 0
    last_refit: str | None = None
    last_refit_why: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return what the last turn left in a registry's folder; None where there is nothing that can be read."""
        try:
            return cls(**json.loads((folder / FILE).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def after_refit(self, version: str | None, *, is_promoted: bool, why: str) -> Self:
        """Return the status with a refit counted; one that had nothing to fit is only told of."""
        return dataclasses.replace(
            self,
            n_promoted=self.n_promoted + is_promoted,
            n_kept_in_shadow=self.n_kept_in_shadow + (version is not None and not is_promoted),
            last_refit=version,
            last_refit_why=why,
        )

    def write(self, folder: Path) -> None:
        """Replace the file of the folder. Nothing waits for the disk: what a crash takes, the next turn writes."""
        staged = folder / f".{FILE}"
        staged.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        os.replace(staged, folder / FILE)
