"""What policies would have achieved on a log that another policy wrote, and how far to trust it."""

from pointsman.pipeline.evaluation.evaluate import evaluate, evaluate_cross_fitted, power
from pointsman.pipeline.evaluation.require import Requirement, check, one_sided_level
from pointsman.pipeline.evaluation.result import Evaluation, collapse_warnings
from pointsman.pipeline.evaluation.sample_size import Power
from pointsman.pipeline.evaluation.targets import SPELLED, Target

__all__ = [
    "SPELLED",
    "Evaluation",
    "Power",
    "Requirement",
    "Target",
    "check",
    "collapse_warnings",
    "evaluate",
    "evaluate_cross_fitted",
    "one_sided_level",
    "power",
]
