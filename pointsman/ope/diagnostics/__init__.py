"""What a log can and cannot say about a policy, in numbers and, where it matters, warnings."""

from pointsman.ope.diagnostics.balance import CovariateBalance, check_balance
from pointsman.ope.diagnostics.calibration import (
    InversePropensities,
    PropensityCurve,
    check_calibration,
    check_inverse_propensities,
    propensity_curve,
)
from pointsman.ope.diagnostics.missingness import Missingness, check_missingness
from pointsman.ope.diagnostics.overlap import Diagnostics, OverlapCells, diagnose, overlap_cells
from pointsman.ope.diagnostics.trust import Gate, check_sample_size, gate, rounds_needed
from pointsman.ope.diagnostics.weights import effective_sample_size, largest_to_expect, pareto_k, pareto_k_limit

__all__ = [
    "CovariateBalance",
    "Diagnostics",
    "Gate",
    "InversePropensities",
    "Missingness",
    "OverlapCells",
    "PropensityCurve",
    "check_balance",
    "check_calibration",
    "check_inverse_propensities",
    "check_missingness",
    "check_sample_size",
    "diagnose",
    "effective_sample_size",
    "gate",
    "largest_to_expect",
    "overlap_cells",
    "pareto_k",
    "pareto_k_limit",
    "propensity_curve",
    "rounds_needed",
]
