"""From a log to a router, and from a router to numbers about it: simulate, fit, fuse, evaluate, score."""

from pointsman.pipeline.evaluation import (
    SPELLED,
    Evaluation,
    Power,
    Requirement,
    Target,
    check,
    collapse_warnings,
    evaluate,
    evaluate_cross_fitted,
    one_sided_level,
    power,
)
from pointsman.pipeline.fusing import FusedLabels, Fusion, fuse_labels
from pointsman.pipeline.learning import fit, simulate
from pointsman.pipeline.rounds import default_trade_offs, json_ready
from pointsman.pipeline.truth import TrueScore, score
from pointsman.pipeline.warm_start import warm_start

__all__ = [
    "SPELLED",
    "Evaluation",
    "FusedLabels",
    "Fusion",
    "Power",
    "Requirement",
    "Target",
    "TrueScore",
    "check",
    "collapse_warnings",
    "default_trade_offs",
    "evaluate",
    "evaluate_cross_fitted",
    "fit",
    "fuse_labels",
    "json_ready",
    "one_sided_level",
    "power",
    "score",
    "simulate",
    "warm_start",
]
