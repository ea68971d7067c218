"""Imitate the logger: what a router amounts to that takes the logged arm for the right one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pointsman.policies.base import check_trade_off, greedy
from pointsman.policies.head import HeadPolicy
from pointsman.policies.objectives import CrossEntropy, Objective
from pointsman.scores import Scores
from pointsman.trade_off import TradeOff
from pointsman.types import Context, Eligible, PerArm


class Clone(HeadPolicy):
    """Chooses the arm the logging policy was most likely to choose, by multinomial logistic regression.

    With one arm a prompt, "the best arm among those logged for this prompt" is the logged arm, whatever it achieved:
    this is the baseline to beat. It learns nothing about outcomes and so ignores the trade-off.
    """

    name = "clone"

    def objectives(self, scores: Scores) -> Sequence[Objective]:
        """Return the cross-entropy to the logged arm, judged on held-out rounds by their likelihood."""
        return [CrossEntropy(label=scores.arm, eligible=scores.eligible)]

    def probabilities(self, context: Context, trade_off: TradeOff, eligible: Eligible | None = None) -> PerArm:
        """Return probability one for the eligible arm the logger was most likely to choose."""
        logits = self.head_.outputs(context)
        check_trade_off(trade_off, cost_usd=self.cost_usd_)
        return greedy(logits, eligible=eligible, cost_usd=np.broadcast_to(self.cost_usd_, logits.shape))
