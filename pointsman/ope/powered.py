"""A value in gold units from a log that a judge scored, and a few rounds of which have gold labels."""

from __future__ import annotations

import numpy as np

from pointsman.errors import InvalidParameterError
from pointsman.ope.estimate import Estimate
from pointsman.ope.frontier import linearised


def prediction_powered(*, gold: Estimate, judged_gold: Estimate, judged_rest: Estimate) -> Estimate:
    """Return gold - s (judged_gold - judged_rest), the share s the one of least variance.

    Rounds with a gold label are a random part of the log, so the bracket has mean zero whatever the judge's bias, and
    the value stays that of the gold labels. With psi the influences, n rounds with a gold label and N without,

        s = cov(psi_gold, psi_judged) / n / ( var(psi_judged) / n + var(psi_rest) / N ),

    so that a useless judge gets s near 0 and the estimate is that of the gold labels alone. s is estimated, which
    biases by order 1 / n and costs nothing to first order.

    Args:
        gold: Estimate from gold labels, on the rounds that have one.
        judged_gold: The same estimator on the same rounds, from the judge's labels.
        judged_rest: The same estimator on the other rounds, from the judge's labels.

    Returns:
        The estimate over all rounds, those with a gold label first; `parameter` is s.

    Raises:
        InvalidParameterError: The first two rest on different rounds, or there are fewer than two rounds of a kind.

    References:
        Angelopoulos, Bates, Fannjiang, Jordan and Zrnic (2023), Science 382; Angelopoulos, Duchi and Zrnic (2023),
        arXiv 2311.01453, for the share.
    """
    n, n_rest = gold.n_rounds, judged_rest.n_rounds
    if judged_gold.n_rounds != n:
        raise InvalidParameterError(
            f"gold and judged_gold must rest on the same rounds; got {n} and {judged_gold.n_rounds}"
        )
    if min(n, n_rest) < 2:
        raise InvalidParameterError(
            f"each kind of round needs at least two; got {n} with a gold label and {n_rest} without"
        )
    noise = float(judged_gold.influence.var(ddof=1)) / n + float(judged_rest.influence.var(ddof=1)) / n_rest
    shared = float(gold.influence @ judged_gold.influence) / (n - 1) / n
    share = shared / noise if noise > 0 else 0.0
    total = n + n_rest
    influence = np.concatenate(
        [
            total / n * (gold.influence - share * judged_gold.influence),
            total / n_rest * share * judged_rest.influence,
        ]
    )
    value = gold.value - share * (judged_gold.value - judged_rest.value)
    powered = linearised(gold.name, value=value, influence=influence)
    return Estimate(name=powered.name, terms=powered.terms, parameter=share)
