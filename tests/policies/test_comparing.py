"""The facts of the upper envelope: what comparing predictions gives at every trade-off."""

from __future__ import annotations

import numpy as np

from pointsman.policies.comparing import LinearPolicy
from pointsman.trade_off import TradeOff

N_ROWS, N_ARMS, N_FEATURES = 50, 5, 3


class Given(LinearPolicy):
    """A policy of given coefficients."""

    name = "given"

    def fit(self, context: object, scores: object) -> Given:
        """Return self: there is nothing to learn."""
        del context, scores
        return self


def given(rng: np.random.Generator) -> tuple[Given, np.ndarray]:
    """Return a policy of random coefficients, and contexts."""
    policy = Given()
    policy.quality_coef_ = rng.standard_normal((N_ARMS, N_FEATURES))
    policy.cost_coef_ = rng.standard_normal((N_ARMS, N_FEATURES))
    policy.quality_intercept_, policy.cost_intercept_ = rng.standard_normal((2, N_ARMS))
    return policy, rng.standard_normal((N_ROWS, N_FEATURES))


def test_the_choice_switches_only_where_two_utilities_cross(rng: np.random.Generator, seed: int) -> None:
    """Between neighbouring lambda_ij = (a_i - a_j) / (c_i - c_j) the choice is constant; it switches < n_arms times."""
    policy, context = given(rng)
    quality, cost = policy.predict(context)
    for row in range(N_ROWS):
        i, j = np.triu_indices(N_ARMS, 1)
        crossings = (quality[row, i] - quality[row, j]) / (cost[row, i] - cost[row, j])
        ends = np.concatenate([[0], np.sort(crossings[crossings > 0])])
        choices = []
        for lower, upper in zip(ends, np.append(ends[1:], ends[-1] + 1), strict=True):
            inside = {
                int(policy.probabilities(context[[row]], TradeOff(lower + s * (upper - lower))).argmax())
                for s in (0.001, 0.5, 0.999)
            }
            assert len(inside) == 1
            choices.append(inside.pop())
        switches = np.diff(choices) != 0
        assert switches.sum() <= N_ARMS - 1
        assert (np.diff(cost[row, choices]) <= 0).all()
        assert choices[-1] == cost[row].argmin()


def test_utility_is_linear_between_trade_offs(rng: np.random.Generator, seed: int) -> None:
    """y((1-s) l + s u) = (1-s) y(l) + s y(u), to the rounding of a few additions of numbers below 100."""
    policy, context = given(rng)
    quality, cost = policy.predict(context)
    lower, upper, s = rng.random() * 3, 3 + rng.random() * 3, rng.random()
    ends = [TradeOff(x).utility(quality=quality, cost_usd=cost) for x in (lower, upper)]
    inside = TradeOff((1 - s) * lower + s * upper).utility(quality=quality, cost_usd=cost)
    np.testing.assert_allclose((1 - s) * ends[0] + s * ends[1], inside, atol=100 * 8 * np.finfo(float).eps)


def test_errors_of_eps_at_the_ends_cost_two_eps_inside(rng: np.random.Generator, seed: int) -> None:
    """Endpoint utilities within eps of the truth give an interpolated choice of regret at most 2 eps."""
    policy, context = given(rng)
    quality, cost = policy.predict(context)
    lower, upper, eps = 0.5, 2.0, 0.3
    ends = [
        TradeOff(x).utility(quality=quality, cost_usd=cost) + rng.uniform(-eps, eps, quality.shape)
        for x in (lower, upper)
    ]
    row = np.arange(N_ROWS)
    for s in np.linspace(0, 1, 11):
        truth = TradeOff((1 - s) * lower + s * upper).utility(quality=quality, cost_usd=cost)
        chosen = ((1 - s) * ends[0] + s * ends[1]).argmax(axis=1)
        assert (truth.max(axis=1) - truth[row, chosen] <= 2 * eps + 1e-12).all()
