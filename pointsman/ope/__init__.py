"""Off-policy evaluation: what judges a policy. It reads arrays and knows no policy."""

from pointsman.ope.diagnostics import Diagnostics, diagnose, effective_sample_size
from pointsman.ope.estimate import Estimate, Ratio, merge
from pointsman.ope.estimators import dm, dr, ips, snips
from pointsman.ope.evaluate import ESTIMATORS, EvaluationRow, evaluate_policy
from pointsman.ope.intervals import wald
from pointsman.ope.truth import TrueValue, score_policy

__all__ = [
    "ESTIMATORS",
    "Diagnostics",
    "Estimate",
    "EvaluationRow",
    "Ratio",
    "TrueValue",
    "diagnose",
    "dm",
    "dr",
    "effective_sample_size",
    "evaluate_policy",
    "ips",
    "merge",
    "score_policy",
    "snips",
    "wald",
]
