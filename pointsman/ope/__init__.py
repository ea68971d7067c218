"""Off-policy evaluation: what judges a policy. It reads arrays and knows no policy."""

from pointsman.ope.diagnostics import (
    Diagnostics,
    Gate,
    check_balance,
    check_inverse_propensities,
    check_missingness,
    diagnose,
    effective_sample_size,
    gate,
    overlap_cells,
)
from pointsman.ope.estimate import Estimate, EstimateSums, Ratio, merge
from pointsman.ope.estimators import clipped_ips, dm, dr, dros, ips, sndr, snips, switch_dr
from pointsman.ope.evaluate import ESTIMATORS, EvaluationRow, estimate_value, evaluate_policy, outcome_range
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
from pointsman.ope.powered import prediction_powered
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
from pointsman.ope.trusted import GoldLabels, TrustedInterval, trusted_interval
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
    "Gate",
    "GoldLabels",
    "JointIntervals",
    "Ratio",
    "Saving",
    "SensitivityBounds",
    "TrueValue",
    "TrustedInterval",
    "betting",
    "bootstrap",
    "check_balance",
    "check_inverse_propensities",
    "check_missingness",
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
    "estimate_value",
    "evaluate_policy",
    "flip_gamma",
    "gate",
    "ips",
    "joint_intervals",
    "least_mse_bound",
    "manski_bounds",
    "merge",
    "off_policy_bounds",
    "outcome_range",
    "overlap_cells",
    "prediction_powered",
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
    "trusted_interval",
    "tuned",
    "wald",
]
