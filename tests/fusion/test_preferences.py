"""Win rates: the strengths that pairwise votes support, no more, and the same from either side."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import chi2
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from pointsman.errors import InvalidParameterError, NotFittedError
from pointsman.fusion.preferences import WinRates


class Votes(NamedTuple):
    """Votes of a known Bradley-Terry model, whose strengths are (n_arms, 1 + n_features), intercepts first."""

    context: NDArray[np.float64]
    arm_a: NDArray[np.int64]
    arm_b: NDArray[np.int64]
    preference: NDArray[np.float64]
    strengths: NDArray[np.float64]

    def fit(self, model: WinRates, **changed: Any) -> WinRates:
        """Fit a model to the votes."""
        options = {"arm_a": self.arm_a, "arm_b": self.arm_b, "n_arms": len(self.strengths)} | changed
        return model.fit(self.context, options.pop("preference", self.preference), **options)


def draw(*, n_votes: int, n_arms: int, n_features: int, rng: np.random.Generator) -> Votes:
    """Draw votes on random pairs of arms that differ by about one logit."""
    context = rng.normal(size=(n_votes, n_features))
    strengths = rng.normal(size=(n_arms, 1 + n_features)) / np.sqrt(1 + n_features)
    arm_a = rng.integers(0, n_arms, n_votes)
    arm_b = (arm_a + rng.integers(1, n_arms, n_votes)) % n_arms
    features = np.column_stack([np.ones(n_votes), context])
    chance = expit((features * (strengths[arm_a] - strengths[arm_b])).sum(axis=1))
    return Votes(context, arm_a, arm_b, (rng.random(n_votes) < chance).astype(np.float64), strengths)


def design(votes: Votes, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the design matrix of the logits: a block of features for each arm, plus for a and minus for b."""
    n_votes, n_features = features.shape
    matrix = np.zeros((n_votes, len(votes.strengths), n_features))
    row = np.arange(n_votes)
    matrix[row, votes.arm_a] = features
    matrix[row, votes.arm_b] -= features
    return matrix.reshape(n_votes, -1)


@pytest.mark.parametrize("n_votes", [1_000, 16_000])
def test_strengths_are_recovered_at_the_rate_of_the_information(seed, rng, n_votes):
    """Errors are normal with the inverse of Fisher's information, which grows with the votes; the prior adds little."""
    votes = draw(n_votes=n_votes, n_arms=4, n_features=2, rng=rng)
    model = votes.fit(WinRates())

    matrix = design(votes, np.column_stack([np.ones(n_votes), votes.context]))
    chance = expit(matrix @ votes.strengths.ravel())
    information = matrix.T @ (matrix * (chance * (1 - chance))[:, None])
    error = (np.column_stack([model.intercept_, model.coef_]) - votes.strengths).ravel()
    # Only differences of arms count: the information is blind to what they share, here three directions of twelve.
    distance = np.sqrt(error @ information @ error)
    # The components are two of variance one each, scaled to one together: the prior variance of a slope is half.
    shared_out = votes.strengths - votes.strengths.mean(axis=0)
    precision = np.tile([1 / model.intercept_variance_, *[2 / model.slope_variance_] * 2], 4)
    bias = np.linalg.solve(information + np.diag(precision), precision * shared_out.ravel())
    # One in a million; at 1,000 votes the errors' tails are heavier than normal, by terms of order 1 / sqrt(n).
    assert distance < np.sqrt(chi2.isf(1e-6, 9)) * (1 + 1 / np.sqrt(n_votes)) + np.sqrt(bias @ information @ bias)


def test_the_mode_is_scikit_learn_s(rng):
    """Under a given prior the strengths are those of a ridge logistic regression on the explicit design."""
    votes = draw(n_votes=300, n_arms=4, n_features=3, rng=rng)
    context = np.linalg.qr(votes.context - votes.context.mean(axis=0))[0] * np.sqrt(300)  # uncorrelated, variance one
    votes = votes._replace(context=context)
    model = votes.fit(WinRates(intercept_variances=[0.5], slope_variances=[0.2]))

    scale = np.sqrt([0.5, *[0.2 / 3] * 3])  # three components of one third of the variance each
    matrix = design(votes, np.column_stack([np.ones(300), context]) * scale)
    expected = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=1_000)
    expected.fit(matrix, votes.preference)
    strengths = expected.coef_.reshape(4, 4) * scale
    # Components are in single precision, with rounding errors of 6e-8 on 300 votes.
    np.testing.assert_allclose(np.column_stack([model.intercept_, model.coef_]), strengths, atol=1e-5)


def test_which_arm_comes_first_does_not_matter(seed, rng):
    """Swapping a and b in any votes, each mirrored, gives the same fit bit for bit, its choice of prior included."""
    votes = draw(n_votes=400, n_arms=5, n_features=4, rng=rng)
    votes = votes._replace(preference=rng.integers(0, 5, 400) / 4)  # dyadic, so that mirroring is exact
    turned = rng.random(400) < 0.5
    swapped = votes._replace(
        arm_a=np.where(turned, votes.arm_b, votes.arm_a),
        arm_b=np.where(turned, votes.arm_a, votes.arm_b),
        preference=np.where(turned, 1 - votes.preference, votes.preference),
    )

    np.testing.assert_array_equal(
        votes.fit(WinRates()).predict(votes.context), swapped.fit(WinRates()).predict(votes.context)
    )


def test_win_rates_are_the_mean_chance_against_the_others(rng):
    """Between zero and one, a half on average over arms, and what `predict_pair` says pair by pair."""
    votes = draw(n_votes=500, n_arms=4, n_features=3, rng=rng)
    model = votes.fit(WinRates())
    rates = model.predict(votes.context)

    assert rates.shape == (500, 4)
    assert ((rates >= 0) & (rates <= 1)).all()
    np.testing.assert_allclose(rates.mean(axis=1), 0.5, atol=1e-12)
    first = np.zeros(500, dtype=np.int64)
    others = [model.predict_pair(votes.context, arm_a=first, arm_b=first + t) for t in (1, 2, 3)]
    np.testing.assert_allclose(rates[:, 0], np.mean(others, axis=0), atol=1e-12)


def test_an_arm_without_votes_is_the_mean(seed, rng):
    """Nothing is known of it, so it is as strong as the mean of all, for every prompt."""
    votes = draw(n_votes=1_000, n_arms=4, n_features=2, rng=rng)
    model = votes.fit(WinRates(), n_arms=5)

    strength = model.log_strength(votes.context)
    # The sum of the gradients over arms is the sum of the strengths times the prior's: zero to rounding, at the mode.
    np.testing.assert_allclose(strength[:, 4], strength[:, :4].mean(axis=1), atol=1e-8)
    assert model.n_votes_.tolist()[4] == 0
    assert model.n_votes_.sum() == 2_000
    expected = expit(strength[:, [4]] - strength[:, :4]).mean(axis=1)
    np.testing.assert_allclose(model.predict(votes.context)[:, 4], expected, atol=1e-12)


def test_a_tie_is_half_a_win(rng):
    """Of two arms and one prompt the expected vote is the mean vote, but for what the prior takes, exactly."""
    votes = draw(n_votes=200, n_arms=2, n_features=1, rng=rng)
    preference = rng.choice([0.0, 0.5, 1.0], 200, p=[0.1, 0.6, 0.3])
    flat = votes._replace(context=np.full((200, 3), 7.0), preference=preference)
    model = flat.fit(WinRates(intercept_variances=[2.0]))

    for_first = np.where(flat.arm_a == 0, preference, 1 - preference)
    chance = model.predict(flat.context[:1])[0, 0]
    # Where the gradient vanishes, n (mean vote - chance) = b_0 / prior variance.
    assert for_first.mean() - chance == pytest.approx(model.intercept_[0] / 2.0 / 200, abs=1e-8)
    np.testing.assert_array_equal(model.coef_, 0)


def test_weights_count_votes(rng):
    """A weight of two is a vote cast twice; no weight, or an arm against itself, is no vote at all."""
    votes = draw(n_votes=300, n_arms=3, n_features=2, rng=rng)
    options = {"intercept_variances": [0.5], "slope_variances": [0.2]}
    twice = np.repeat(np.arange(300), 2)
    doubled = Votes(*(array[twice] for array in votes[:4]), votes.strengths).fit(WinRates(**options))
    weighted = votes.fit(WinRates(**options), sample_weight=np.full(300, 2.0))
    np.testing.assert_allclose(weighted.predict(votes.context), doubled.predict(votes.context), atol=1e-6)

    more = Votes(
        np.concatenate([votes.context, 100 * votes.context[:50], 100 * votes.context[:50]]),
        np.concatenate([votes.arm_a, votes.arm_a[:50], votes.arm_a[:50]]),
        np.concatenate([votes.arm_b, votes.arm_b[:50], votes.arm_a[:50]]),
        np.concatenate([votes.preference, np.ones(100)]),
        votes.strengths,
    )
    model = more.fit(WinRates(), sample_weight=np.repeat([1.0, 0.0, 1.0], [300, 50, 50]))
    np.testing.assert_array_equal(model.predict(votes.context), votes.fit(WinRates()).predict(votes.context))


def test_the_unit_of_features_drops_out(rng):
    """Features in other units, from another zero, give the same win rates to rounding."""
    votes = draw(n_votes=600, n_arms=3, n_features=3, rng=rng)
    other = votes._replace(context=votes.context * [1e-3, 1.0, 1e3] + [1.0, -2.0, 5e3])

    np.testing.assert_allclose(
        votes.fit(WinRates()).predict(votes.context), other.fit(WinRates()).predict(other.context), atol=1e-5
    )


def test_slopes_wait_for_prompts_that_repeat_what_they_learn(seed, rng):
    """Votes on one prompt share a fold: else ten copies of one voter's whim would look like taste."""
    context = np.repeat(rng.normal(size=(200, 32)), 10, axis=0)
    prompt = np.repeat(np.arange(200), 10)
    whim = np.repeat(rng.integers(0, 2, 200), 10).astype(np.float64)
    votes = Votes(context, np.zeros(2_000, dtype=np.int64), np.ones(2_000, dtype=np.int64), whim, np.zeros((2, 33)))

    assert votes.fit(WinRates(), group=prompt).slope_variance_ < votes.fit(WinRates()).slope_variance_


def test_choosing_by_some_votes_is_nearly_as_good(rng):
    """Prior variances chosen by a tenth of the votes are within a decade of those chosen by all; the fit uses all."""
    votes = draw(n_votes=4_000, n_arms=3, n_features=3, rng=rng)
    few, all_votes = votes.fit(WinRates(max_tuning_votes=400)), votes.fit(WinRates())

    assert 0.1 <= few.slope_variance_ / all_votes.slope_variance_ <= 10
    # Two prior precisions of a slope are at most 2 / 0.03 apart, on an information of 4,000 x 2/3 x 0.2: logits of
    # up to 3 shrink by an eighth more under one than under the other, win rates by a quarter of that.
    np.testing.assert_allclose(few.predict(votes.context), all_votes.predict(votes.context), atol=0.1)
    assert few.n_votes_.sum() == 8_000


def test_a_single_vote_moves_little(rng):
    """With nothing to choose a prior by it is the narrowest, and votes that all agree leave finite strengths."""
    one = WinRates().fit(np.ones((1, 2)), np.ones(1), arm_a=np.array([0]), arm_b=np.array([1]), n_arms=2)
    assert (one.intercept_variance_, one.slope_variance_) == (0.001, 0.0)
    assert 0.5 < one.predict(np.ones((1, 2)))[0, 0] < 0.501

    votes = draw(n_votes=500, n_arms=2, n_features=2, rng=rng)
    always = votes.fit(WinRates(), preference=(votes.arm_a == 0).astype(np.float64))
    rates = always.predict(votes.context)[:, 0]
    assert 0.95 < rates.min() <= rates.max() < 1


def test_many_arms_have_fewer_slopes(rng):
    """Where arms are many, components give way: a Newton step has no more parameters than it can bear."""
    votes = draw(n_votes=1_500, n_arms=150, n_features=20, rng=rng)
    model = votes.fit(WinRates(intercept_variances=[1.0], slope_variances=[0.1]))

    assert np.linalg.matrix_rank(model.coef_) == 2048 // 150 - 1
    assert np.isfinite(model.predict(votes.context)).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"preference": np.array([0.5, 1.5])}, r"preference must be in \[0, 1\]; got 1.5"),
        ({"preference": np.array([0.5, np.nan])}, r"preference must be in \[0, 1\]; got nan"),
        ({"arm_a": np.array([0, 2])}, r"arm_a must be in \[0, 2\); got 2"),
        ({"arm_b": np.array([0, -1])}, r"arm_b must be in \[0, 2\); got -1"),
        ({"arm_b": np.array([0, 1, 1])}, "arm_b must have one row a vote, 2; got 3"),
        ({"arm_b": np.array([0, 0])}, "votes must be on two different arms"),
        ({"sample_weight": np.array([-1.0, 1.0])}, "sample_weight must be finite and not negative; got -1.0"),
        ({"sample_weight": np.zeros(2)}, "votes must be on two different arms"),
        ({"n_arms": 1}, "n_arms must be at least 2; got 1"),
    ],
)
def test_each_rule_names_parameter_and_value(changed, message):
    """A vote that cannot be read raises, and says what is wrong with it."""
    votes = Votes(np.ones((2, 1)), np.array([0, 0]), np.array([1, 1]), np.array([0.5, 1.0]), np.zeros((2, 2)))
    with pytest.raises(InvalidParameterError, match=message):
        votes.fit(WinRates(), **changed)


def test_options_have_rules_too():
    """Variances are finite, and that of intercepts positive; fitted names are there after fit; options are cloned."""
    votes = Votes(np.ones((2, 1)), np.array([0, 0]), np.array([1, 1]), np.array([0.5, 1.0]), np.zeros((2, 2)))
    with pytest.raises(InvalidParameterError, match="intercept_variances must be one or more finite numbers > 0"):
        votes.fit(WinRates(intercept_variances=[0.0, 1.0]))
    with pytest.raises(InvalidParameterError, match="slope_variances must be one or more finite numbers >= 0"):
        votes.fit(WinRates(slope_variances=[]))
    with pytest.raises(NotFittedError, match=r"WinRates\.coef_ is there only after fit"):
        WinRates().predict(np.ones((1, 1)))
    assert clone(WinRates(n_components=5)).n_components == 5
