"""Simple corrections: what to compare with, and what to use where a simple one is enough.

Every method works on what it heard of the judges: their labels, and in a round where none of them spoke what each would
have been expected to say (`JudgedRounds.expected`). The constants of a judge rest on the gold rounds it scored, where
these are at least `PAIRS_ENOUGH` or all gold rounds there are; else on all gold rounds, with what the judge would be
expected to say where it said nothing. That takes the place of the difference of two means, and unlike it does not
mistake a difference between the prompts of gold rounds and of judged ones for a bias.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.fusion.base import Corrected, Correction, JudgedRounds
from pointsman.types import PerRound

PAIRS_ENOUGH = 5
"""Gold rounds that a judge scored from which on its constants rest on these alone."""

LEAST_NOISE = 1e-6
"""Residual variance of a judge at least: one that is never wrong in a few rounds is not trusted for ever."""


def heard(rounds: JudgedRounds) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (n_rounds, n_judges) each judge's label, expected where it said nothing, and whether a round uses it.

    A round uses the judges that spoke; where none did, what all are expected to say.
    """
    said = ~np.isnan(rounds.judged)
    label = np.where(said, rounds.judged, rounds.expected)
    return label, said | ~said.any(axis=1, keepdims=True)


class GoldOnly(Correction):
    """E[gold | x, arm] from gold labels alone: a ridge per arm; the mean of all gold for arms without a gold label.

    Attributes:
        model_: The fitted `PerArmRidge`.
    """

    name = "gold-only"

    def fit(self, rounds: JudgedRounds) -> Self:
        """Learn from the gold labels."""
        from pointsman.nuisance.ridge import PerArmRidge

        known = _gold_rounds(rounds)
        self.model_ = PerArmRidge().fit(
            rounds.context[known], rounds.gold[known], arm=rounds.arm[known], n_arms=rounds.n_arms
        )
        return self

    def correct(self, rounds: JudgedRounds) -> Corrected:
        """Return the expected gold label of each round, within [0, 1]; errors are not known."""
        predicted = self.model_.predict(rounds.context)[np.arange(rounds.n_rounds), rounds.arm]
        return _of_unknown_error(predicted)


class JudgeOnly(Correction):
    """The mean of the judges' labels as it is, in the judges' units; what they are expected to say where none spoke."""

    name = "judge-only"

    def fit(self, rounds: JudgedRounds) -> Self:
        """Learn nothing: gold labels are not looked at."""
        _check_judges(rounds)
        return self

    def correct(self, rounds: JudgedRounds) -> Corrected:
        """Return the judges' mean label; errors are not known."""
        label, used = heard(rounds)
        return _of_unknown_error(_mean(label, used))


class Pooled(Correction):
    """Gold and judges' labels as if they were of one kind.

    The judges' mean label where one spoke; elsewhere a ridge per arm on all labels stacked, gold and judges', each of
    them one observation.

    Attributes:
        model_: The fitted `PerArmRidge`.
    """

    name = "pooled"

    def fit(self, rounds: JudgedRounds) -> Self:
        """Learn from all labels."""
        from pointsman.nuisance.ridge import PerArmRidge

        labels = np.column_stack([rounds.gold, rounds.judged])
        row, source = np.nonzero(~np.isnan(labels))
        if row.size == 0:
            raise InvalidParameterError("rounds must hold at least one label; got none")
        self.model_ = PerArmRidge().fit(
            rounds.context[row], labels[row, source], arm=rounds.arm[row], n_arms=rounds.n_arms
        )
        return self

    def correct(self, rounds: JudgedRounds) -> Corrected:
        """Return the judges' mean label, or the regression's prediction; errors are not known."""
        quality = self.model_.predict(rounds.context)[np.arange(rounds.n_rounds), rounds.arm]
        said = ~np.isnan(rounds.judged)
        spoken = said.any(axis=1)
        quality[spoken] = _mean(rounds.judged, said)[spoken]
        return _of_unknown_error(quality)


class _Constants(Correction):
    """A constant a judge, of its own for each arm or not, added to its labels; several judges' are averaged.

    Attributes:
        shift_: (n_arms, n_judges) the constants, in quality points.
        covariance_: (n_arms, n_judges, n_judges) of one arm's constants; NaN where a constant rests on one label.
    """

    by_arm: ClassVar[bool]

    def fit(self, rounds: JudgedRounds) -> Self:
        """Learn the constants from the gold rounds."""
        _check_judges(rounds)
        known = _gold_rounds(rounds)
        gap = rounds.gold[known, None] - np.where(np.isnan(rounds.judged), rounds.expected, rounds.judged)[known]
        said = ~np.isnan(rounds.judged[known])
        shift, influence = _mean_gaps(gap, said=said, member=np.ones(known.size, dtype=bool))
        self.shift_ = np.tile(shift, (rounds.n_arms, 1))
        self.covariance_ = np.tile(influence.T @ influence, (rounds.n_arms, 1, 1))
        for t in np.unique(rounds.arm[known]) if self.by_arm else ():
            self.shift_[t], influence = _mean_gaps(gap, said=said, member=rounds.arm[known] == t)
            self.covariance_[t] = influence.T @ influence
        return self

    def correct(self, rounds: JudgedRounds) -> Corrected:
        """Return the shifted labels, within [0, 1], and the standard errors of the constants in them."""
        label, used = heard(rounds)
        quality = _mean(label + self.shift_[rounds.arm], used)
        together = used[:, :, None] & used[:, None, :]
        variance = np.where(together, self.covariance_[rounds.arm], 0.0).sum(axis=(1, 2)) / used.sum(axis=1) ** 2
        return Corrected(quality=np.clip(quality, 0, 1), error=np.sqrt(np.maximum(variance, 0)))


class Shift(_Constants):
    """Each judge's label plus one constant of that judge, the mean of gold minus judge; several judges' averaged.

    The error is that of the mean over judges: constants that rest on the same gold labels err together.
    """

    name = "shift"
    by_arm = False


class ArmShift(_Constants):
    """Each judge's label plus a constant of that judge and arm; the judge's own for arms without a gold label.

    An arm's constant rests on its gold rounds alone, however few: nothing is pooled.
    """

    name = "arm-shift"
    by_arm = True


@dataclass(frozen=True, kw_only=True)
class _Line:
    """gold = intercept + slope label.

    Attributes:
        intercept: At label zero.
        slope: One or what was learned.
        center: Mean label that it rests on.
        spread: Sum of squares about it; infinite where the slope was not learned.
        n_rounds: Gold rounds that it rests on.
        noise: Residual variance.
    """

    intercept: float
    slope: float
    center: float
    spread: float
    n_rounds: int
    noise: float

    def predict(self, label: PerRound) -> PerRound:
        """Return the expected gold label."""
        return self.intercept + self.slope * label

    def error(self, label: PerRound) -> PerRound:
        """Return its standard error."""
        return np.sqrt(self.noise * (1 / self.n_rounds + (label - self.center) ** 2 / self.spread))


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """A monotone step function of the label, scikit-learn's; its error is not known."""

    model: Any
    noise: float

    def predict(self, label: PerRound) -> PerRound:
        """Return the expected gold label."""
        return np.asarray(self.model.predict(label), dtype=np.float64)

    def error(self, label: PerRound) -> PerRound:
        """Return NaN."""
        return np.full_like(label, np.nan)


class _Curve(Protocol):
    @property
    def noise(self) -> float: ...
    def predict(self, label: PerRound) -> PerRound: ...
    def error(self, label: PerRound) -> PerRound: ...


class _Calibration(Correction):
    """A curve from label to gold a judge; several judges' are averaged by inverse residual variance.

    A judge with fewer than `PAIRS_ENOUGH` gold rounds scored gets slope one and the constant of `Shift`. The error of
    an average is at most that of judges whose curves err together, and that is what is given.

    Attributes:
        curves_: One a judge.
    """

    def fit(self, rounds: JudgedRounds) -> Self:
        """Learn each judge's curve from the gold rounds."""
        _check_judges(rounds)
        known = _gold_rounds(rounds)
        has_gold, said = rounds.has_gold, ~np.isnan(rounds.judged)
        self.curves_: list[_Curve] = []
        for j in range(rounds.n_judges):
            pairs = np.flatnonzero(has_gold & said[:, j])
            if pairs.size >= PAIRS_ENOUGH:
                rest = rounds.judged[said[:, j] & ~has_gold, j]
                self.curves_.append(self._curve(gold=rounds.gold[pairs], judged=rounds.judged[pairs, j], rest=rest))
            else:
                label = np.where(said[known, j], rounds.judged[known, j], rounds.expected[known, j])
                self.curves_.append(_constant(rounds.gold[known], label, slope=1.0))
        return self

    def correct(self, rounds: JudgedRounds) -> Corrected:
        """Return the calibrated labels, within [0, 1]."""
        label, used = heard(rounds)
        weight = used / np.array([curve.noise for curve in self.curves_])
        weight /= weight.sum(axis=1, keepdims=True)
        predicted = np.column_stack([curve.predict(label[:, j]) for j, curve in enumerate(self.curves_)])
        error = np.column_stack([curve.error(label[:, j]) for j, curve in enumerate(self.curves_)])
        return Corrected(
            quality=np.clip((weight * predicted).sum(axis=1), 0, 1),
            error=np.where(used, weight * error, 0.0).sum(axis=1),
        )

    @abstractmethod
    def _curve(self, *, gold: PerRound, judged: PerRound, rest: PerRound) -> _Curve:
        """Return a judge's curve, from gold rounds that it scored and its labels of rounds without gold."""


class Linear(_Calibration):
    """Least squares of gold on the judge's label, a line a judge."""

    name = "linear"

    def _curve(self, *, gold: PerRound, judged: PerRound, rest: PerRound) -> _Curve:  # noqa: ARG002
        center = float(judged.mean())
        spread = float(((judged - center) ** 2).sum())
        slope = float((judged - center) @ gold) / spread if spread > 0 else 0.0
        intercept = float(gold.mean()) - slope * center
        residual = gold - intercept - slope * judged
        noise = max(float(residual @ residual) / (gold.size - 2), LEAST_NOISE)
        return _Line(
            intercept=intercept,
            slope=slope,
            center=center,
            spread=spread if spread > 0 else np.inf,
            n_rounds=gold.size,
            noise=noise,
        )


class Isotonic(_Calibration):
    """Isotonic regression of gold on the judge's label, a step function a judge; errors are not known.

    References:
        Zadrozny and Elkan (2002), KDD.
    """

    name = "isotonic"

    def _curve(self, *, gold: PerRound, judged: PerRound, rest: PerRound) -> _Curve:  # noqa: ARG002
        from sklearn.isotonic import IsotonicRegression

        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(judged, gold)
        fitted = model.predict(judged)
        freedom = max(gold.size - np.unique(fitted).size, 1)
        return _Steps(model=model, noise=max(float(((gold - fitted) ** 2).sum()) / freedom, LEAST_NOISE))


class PredictionPowered(_Calibration):
    """s judge + mean(gold - s judge), a judge's s the one of least variance of the mean.

    With n gold rounds that the judge scored and N that it scored without a gold label,

        s = cov(gold, judge) / n / ( var(judge over gold rounds) / n + var(judge over the rest) / N ),

    as in `ope.prediction_powered`: where no label is clipped, the mean of the corrected labels over the rest is that
    estimate. Without two rounds of the rest there is nothing to gain and s is 0.

    References:
        Angelopoulos, Bates, Fannjiang, Jordan and Zrnic (2023), Science 382; Angelopoulos, Duchi and Zrnic (2023),
        arXiv 2311.01453, for the share.
    """

    name = "ppi"

    def _curve(self, *, gold: PerRound, judged: PerRound, rest: PerRound) -> _Curve:
        slope = 0.0
        if rest.size >= 2:
            noise = float(judged.var(ddof=1)) / gold.size + float(rest.var(ddof=1)) / rest.size
            shared = float((gold - gold.mean()) @ judged) / (gold.size - 1) / gold.size
            slope = shared / noise if noise > 0 else 0.0
        return _constant(gold, judged, slope=slope)


def _constant(gold: PerRound, label: PerRound, *, slope: float) -> _Line:
    """Return the line of this slope through the means."""
    gap = gold - slope * label
    # Of one gold label nothing is known but that labels lie within [0, 1].
    noise = max(float(gap.var(ddof=1)), LEAST_NOISE) if gap.size > 1 else 1.0
    return _Line(intercept=float(gap.mean()), slope=slope, center=0.0, spread=np.inf, n_rounds=gap.size, noise=noise)


def _mean_gaps(
    gap: NDArray[np.float64], *, said: NDArray[np.bool_], member: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each judge's mean gap over these gold rounds, and what each round contributes to it.

    Args:
        gap: (n_gold, n_judges) gold minus the judge's label, expected where it said nothing.
        said: (n_gold, n_judges) whether the judge spoke.
        member: (n_gold,) the rounds to learn from; at least one.

    Returns:
        (n_judges,) the means and (n_gold, n_judges) their influences, the sums of whose products are covariances.
    """
    used = said & member[:, None]
    few = used.sum(axis=0) < min(PAIRS_ENOUGH, int(member.sum()))
    used = np.where(few, member[:, None], used)
    n_used = used.sum(axis=0)
    mean = np.where(used, gap, 0.0).sum(axis=0) / n_used
    # One label tells nothing of its own error.
    scale = np.where(n_used > 1, 1 / np.sqrt(n_used * np.maximum(n_used - 1.0, 1.0)), np.nan)
    return mean, np.where(used, (gap - mean) * scale, 0.0)


def _mean(label: NDArray[np.float64], used: NDArray[np.bool_]) -> PerRound:
    """Return the mean over the judges used; 0 where none is."""
    return np.asarray(np.where(used, label, 0.0).sum(axis=1) / np.maximum(used.sum(axis=1), 1))


def _of_unknown_error(quality: PerRound) -> Corrected:
    return Corrected(quality=np.clip(quality, 0, 1), error=np.full(quality.size, np.nan))


def _gold_rounds(rounds: JudgedRounds) -> NDArray[np.int64]:
    known = np.flatnonzero(rounds.has_gold)
    if known.size == 0:
        raise InvalidParameterError("rounds must hold at least one gold label to learn from; got none")
    return known


def _check_judges(rounds: JudgedRounds) -> None:
    if rounds.n_judges == 0:
        raise InvalidParameterError("rounds must have at least one judge to correct; got none")
