"""Fusion: from a few gold labels and many of biased judges to labels in gold units.

Corrections by name; a correction's module is imported when it is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from pointsman.errors import InvalidParameterError
from pointsman.fusion.base import Corrected, Correction, JudgedRounds
from pointsman.fusion.fuse import LEAST_GOLD, Fused, fuse
from pointsman.fusion.labelling import Labelling

__all__ = [
    "CORRECTIONS",
    "LEAST_GOLD",
    "Corrected",
    "Correction",
    "Fused",
    "JudgedRounds",
    "Labelling",
    "fuse",
    "make_correction",
]

_CLASSES = {
    "arm-shift": ("baselines", "ArmShift"),
    "dr-learner": ("effects", "DRLearner"),
    "gold-only": ("baselines", "GoldOnly"),
    "hierarchical": ("hierarchical", "Hierarchical"),
    "isotonic": ("baselines", "Isotonic"),
    "judge-only": ("baselines", "JudgeOnly"),
    "linear": ("baselines", "Linear"),
    "pooled": ("baselines", "Pooled"),
    "ppi": ("baselines", "PredictionPowered"),
    "r-learner": ("effects", "RLearner"),
    "shift": ("baselines", "Shift"),
}


class _Corrections(Mapping[str, type[Correction]]):
    def __getitem__(self, name: str) -> type[Correction]:
        module, cls = _CLASSES[name]
        correction: type[Correction] = getattr(import_module(f"pointsman.fusion.{module}"), cls)
        return correction

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


CORRECTIONS: Mapping[str, type[Correction]] = _Corrections()
"""Every correction by its name on the command line; `hierarchical` is the default."""


def make_correction(name: str = "hierarchical", **options: Any) -> Correction:
    """Return an unfitted correction.

    Args:
        name: A key of `CORRECTIONS`.
        options: Its own constructor arguments.

    Raises:
        InvalidParameterError: There is no such correction, or it has no such option.
    """
    if name not in CORRECTIONS:
        raise InvalidParameterError(f"correction must be among {list(CORRECTIONS)}; got {name!r}")
    known = inspect.signature(CORRECTIONS[name]).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InvalidParameterError(f"options of {name!r} must be among {list(known)}; got {unknown}")
    return CORRECTIONS[name](**options)
