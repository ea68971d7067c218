"""From a log to a router, and from a router to numbers about it: simulate, fit, evaluate, score."""

from pointsman.pipeline.evaluation import Evaluation, Target, collapse_warnings, evaluate, evaluate_cross_fitted
from pointsman.pipeline.learning import fit, simulate
from pointsman.pipeline.rounds import default_trade_offs
from pointsman.pipeline.truth import TrueScore, score

__all__ = [
    "Evaluation",
    "Target",
    "TrueScore",
    "collapse_warnings",
    "default_trade_offs",
    "evaluate",
    "evaluate_cross_fitted",
    "fit",
    "score",
    "simulate",
]
