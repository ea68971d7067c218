"""How far hidden confounding could move a policy's value: bounds under the marginal sensitivity model.

The log's propensity e of the logged arm conditions on the context x. Had the logging policy also looked at some u that
is not in x, its true probability e* of that arm would have been another; the model, for each arm apart, is

    1 / gamma <= [(1 - e*) / e*] / [(1 - e) / e] <= gamma,

so that the true inverse propensity is 1 + (1 / e - 1) r with r in [1 / gamma, gamma]: r = 1 where nothing is hidden,
and E[r | x, arm] = 1 always. `sensitivity_bounds` lets every round take the r that hurts most under the constraint
that weights of a group of rounds average one; `sharp_bounds` keeps E[r | x, arm] = 1 for every x, which no bound can
improve on, and needs predictions; `manski_bounds` lets gamma be infinite. A target's value is bounded, or what it gains
on another policy: the rounds in which both would have done the same then do not count.

Propensities are taken as given: that they were estimated is in no interval here.
"""

from pointsman.ope.sensitivity.manski import Bounds, manski_bounds
from pointsman.ope.sensitivity.sharp import sharp_bounds, sharp_flip_gamma
from pointsman.ope.sensitivity.stabilised import SensitivityBounds, flip_gamma, sensitivity_bounds

__all__ = [
    "Bounds",
    "SensitivityBounds",
    "flip_gamma",
    "manski_bounds",
    "sensitivity_bounds",
    "sharp_bounds",
    "sharp_flip_gamma",
]
