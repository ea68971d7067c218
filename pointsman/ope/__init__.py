"""Off-policy evaluation: what judges a policy. It reads arrays and knows no policy."""

from pointsman.ope.diagnostics import Diagnostics, diagnose, effective_sample_size
from pointsman.ope.estimate import Estimate, EstimateSums, Ratio, merge
from pointsman.ope.estimators import clipped_ips, dm, dr, dros, ips, sndr, snips, switch_dr
from pointsman.ope.evaluate import ESTIMATORS, EvaluationRow, evaluate_policy
from pointsman.ope.frontier import FrontierPoint, Saving, cost_at_equal_quality, quality_at_equal_cost
from pointsman.ope.intervals import (
    JointIntervals,
    betting,
    bootstrap,
    empirical_bernstein,
    joint_intervals,
    off_policy_bounds,
    wald,
)
from pointsman.ope.power import ContrastNoise, contrast_noise, detectable_effect, rounds_needed
from pointsman.ope.selection import least_mse_bound, slope, tuned
from pointsman.ope.sensitivity import (
    Bounds,
    SensitivityBounds,
    flip_gamma,
    manski_bounds,
    sensitivity_bounds,
    sharp_bounds,
    sharp_flip_gamma,
)
from pointsman.ope.truth import TrueValue, score_policy

__all__ = [
    "ESTIMATORS",
    "Bounds",
    "ContrastNoise",
    "Diagnostics",
    "Estimate",
    "EstimateSums",
    "EvaluationRow",
    "FrontierPoint",
    "JointIntervals",
    "Ratio",
    "Saving",
    "SensitivityBounds",
    "TrueValue",
    "betting",
    "bootstrap",
    "clipped_ips",
    "contrast_noise",
    "cost_at_equal_quality",
    "detectable_effect",
    "diagnose",
    "dm",
    "dr",
    "dros",
    "effective_sample_size",
    "empirical_bernstein",
    "evaluate_policy",
    "flip_gamma",
    "ips",
    "joint_intervals",
    "least_mse_bound",
    "manski_bounds",
    "merge",
    "off_policy_bounds",
    "quality_at_equal_cost",
    "rounds_needed",
    "score_policy",
    "sensitivity_bounds",
    "sharp_bounds",
    "sharp_flip_gamma",
    "slope",
    "sndr",
    "snips",
    "switch_dr",
    "tuned",
    "wald",
]
