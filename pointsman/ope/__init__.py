"""Off-policy evaluation: what judges a policy. It reads arrays and knows no policy."""

from pointsman.ope.diagnostics import Diagnostics, diagnose, effective_sample_size
from pointsman.ope.estimate import Estimate, EstimateSums, Ratio, merge
from pointsman.ope.estimators import clipped_ips, dm, dr, dros, ips, sndr, snips, switch_dr
from pointsman.ope.evaluate import ESTIMATORS, EvaluationRow, evaluate_policy
from pointsman.ope.intervals import wald
from pointsman.ope.selection import least_mse_bound, slope, tuned
from pointsman.ope.truth import TrueValue, score_policy

__all__ = [
    "ESTIMATORS",
    "Diagnostics",
    "Estimate",
    "EstimateSums",
    "EvaluationRow",
    "Ratio",
    "TrueValue",
    "clipped_ips",
    "diagnose",
    "dm",
    "dr",
    "dros",
    "effective_sample_size",
    "evaluate_policy",
    "ips",
    "least_mse_bound",
    "merge",
    "score_policy",
    "slope",
    "sndr",
    "snips",
    "switch_dr",
    "tuned",
    "wald",
]
