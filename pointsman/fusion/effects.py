"""A judge's bias as the effect of who judged: R- and DR-learners of E[gold - judge | prompt, arm]."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from pointsman.errors import InvalidParameterError, OverlapError, OverlapWarning
from pointsman.fusion.base import Corrected, Correction, JudgedRounds
from pointsman.fusion.baselines import LEAST_NOISE, PAIRS_ENOUGH, heard
from pointsman.nuisance.base import OutcomeModel
from pointsman.nuisance.batches import batches
from pointsman.nuisance.blocks import Block, BlockRidge
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.propensity import PrincipalAxes, estimate_propensities
from pointsman.types import ArmIndex, PerRound

Propensity = Literal["share", "estimated"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Units:
    """Labels of gold and of one judge, one unit a label: a round with both is two.

    Attributes:
        judge: Which.
        row: (n_units,) the round judged.
        is_gold: (n_units,) z: 1 where gold judged, 0 where the judge did.
        label: (n_units,) o.
        propensity: (n_units,) e = P(z = 1 | x, arm), in (0, 1).
        expected_gold: (n_units,) mu_1, out of fold.
        expected_judge: (n_units,) mu_0, out of fold.
        gold_noise: Variance of a gold label about mu_1.
        judge_noise: Variance of the judge's label about mu_0.
    """

    judge: int
    row: NDArray[np.int64]
    is_gold: PerRound
    label: PerRound
    propensity: PerRound
    expected_gold: PerRound
    expected_judge: PerRound
    gold_noise: float
    judge_noise: float


class _EffectLearner(Correction):
    """What both learners share: units, nuisances, the regression of the effect, and the corrected labels."""

    def __init__(
        self,
        *,
        n_components: int = 16,
        propensity: Propensity | float = "share",
        least_overlap: float = 0.01,
        match_scales: bool = False,
        outcome_model: OutcomeModel | None = None,
        n_folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.n_components = n_components
        self.propensity = propensity
        self.least_overlap = least_overlap
        self.match_scales = match_scales
        self.outcome_model = outcome_model
        self.n_folds = n_folds
        self.seed = seed

    def fit(self, rounds: JudgedRounds, *, gold_propensity: PerRound | None = None) -> Self:
        """Learn each judge's effect from gold labels and the judge's.

        Args:
            rounds: Gold labels of two prompts at least, and what the judges said. Of a judge that said nothing, what
                it is expected to say of rounds without gold counts as its labels.
            gold_propensity: (n_rounds,) known probability with which a round was given a gold label, in (0, 1]; takes
                the place of `propensity`.

        Raises:
            InvalidParameterError: There is no judge, or gold labels are of fewer than two prompts.
            OverlapError: Gold and judge's labels nowhere overlap by `least_overlap`.

        Warns:
            OverlapWarning: Units without overlap were left out.
        """
        self._check(rounds, gold_propensity)
        self.arms_, self.judges_ = tuple(rounds.arms), tuple(rounds.judges)
        self.axes_ = PrincipalAxes.of(rounds.context)
        n_axes = min(self.n_components, self.axes_.variance.size)
        # Scaled as one: what moves prompts most is believed to move a judge's bias most.
        self.axis_scale_ = 1 / np.sqrt(self.axes_.variance[:n_axes].sum())
        self._learn_scales(rounds)
        fold = self._folds(rounds)
        expected_gold = self._expected_gold(rounds, fold)
        units = [self._units(rounds, j, expected_gold, fold, gold_propensity) for j in range(rounds.n_judges)]
        if gold_propensity is not None or self.propensity == "estimated":
            units = [self._overlapping(each, rounds) for each in units]
        self.n_units_ = tuple(each.row.size for each in units)
        # The noise is known, out of fold; learned, it would undo that a gold label counts once for all judges.
        self.regression_ = BlockRidge(self._blocks(), noise=1.0, noise_log_sd=0.0).fit(self._regressed(rounds, units))
        self.noise_ = np.array([each.judge_noise for each in units])
        self._learn_noise(rounds)
        return self

    def effect(self, rounds: JudgedRounds) -> NDArray[np.float64]:
        """Return Delta_j(x, arm) of every judge, (n_rounds, n_judges): what its label is short of gold."""
        return self._effects(rounds)[0]

    def correct(self, rounds: JudgedRounds) -> Corrected:
        """Return the judges' labels plus their effects, within [0, 1]; several judges' averaged by precision.

        A judge's precision is 1 / (variance of gold about its corrected label + error^2). The error is the posterior
        standard deviation of the effect; of an average, that of judges which err together, the most it can be.
        """
        label, used = heard(rounds)
        effect, error = self._effects(rounds)
        corrected = np.clip(self._on_one_scale(label) + effect, 0, 1)
        weight = used / (self.noise_ + error**2)
        weight /= weight.sum(axis=1, keepdims=True)
        return Corrected(quality=(weight * corrected).sum(axis=1), error=(weight * error).sum(axis=1))

    @abstractmethod
    def _weighted(self, units: _Units, *, n_judges: int) -> tuple[PerRound, PerRound]:
        """Return per unit the factor on the effect's features and the outcome, scaled to noise of variance one."""

    def _check(self, rounds: JudgedRounds, gold_propensity: PerRound | None) -> None:
        if rounds.n_judges == 0:
            raise InvalidParameterError("rounds must have at least one judge to correct; got none")
        n_prompts = np.unique(rounds.group[rounds.has_gold]).size
        if n_prompts < 2:
            raise InvalidParameterError(
                f"gold must hold labels of at least 2 prompts for cross-fitting; got {n_prompts}; have more labelled"
            )
        if isinstance(self.propensity, str):
            if self.propensity not in ("share", "estimated"):
                raise InvalidParameterError(
                    f"propensity must be 'share', 'estimated' or a number in (0, 1); got {self.propensity!r}"
                )
        elif not 0 < self.propensity < 1:
            raise InvalidParameterError(f"propensity must be in (0, 1); got {self.propensity}")
        if gold_propensity is not None and not ((gold_propensity > 0) & (gold_propensity <= 1)).all():
            raise InvalidParameterError("gold_propensity must be in (0, 1] for every round; estimate it where unknown")

    def _learn_scales(self, rounds: JudgedRounds) -> None:
        """Find each judge's mean and the factor that gives its labels the variance of gold."""
        gold = rounds.gold[rounds.has_gold]
        self.center_, self.scale_ = np.zeros(rounds.n_judges), np.ones(rounds.n_judges)
        for j in range(rounds.n_judges) if self.match_scales else ():
            label = rounds.judged[~np.isnan(rounds.judged[:, j]), j]
            if label.size > 1 and label.std() > 0 and gold.std() > 0:
                self.center_[j], self.scale_[j] = label.mean(), gold.std() / label.std()

    def _on_one_scale(self, label: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.center_ + (label - self.center_) * self.scale_

    def _folds(self, rounds: JudgedRounds) -> ArmIndex:
        """Return folds that keep a prompt's rounds together and have gold labels of as many prompts each."""
        with_gold = np.isin(rounds.group, rounds.group[rounds.has_gold])
        n_folds = min(self.n_folds, np.unique(rounds.group[with_gold]).size)
        fold = np.empty(rounds.n_rounds, dtype=np.int64)
        fold[with_gold] = assign_folds(
            int(with_gold.sum()), n_folds=n_folds, seed=self.seed, groups=rounds.group[with_gold]
        )
        prompts, member = np.unique(rounds.group[~with_gold], return_inverse=True)
        fold[~with_gold] = (np.random.default_rng(self.seed).permutation(prompts.size) % n_folds)[member]
        return fold

    def _expected_gold(self, rounds: JudgedRounds, fold: ArmIndex) -> PerRound:
        """Return mu_1(x, arm), out of fold: what the judges would say, plus a regression of what gold differs by.

        A regression of gold itself would make all arms without gold labels alike.
        """
        from pointsman.nuisance.ridge import PerArmRidge

        said = rounds.expected.mean(axis=1)
        gap = cross_fit_outcomes(
            PerArmRidge() if self.outcome_model is None else clone(self.outcome_model),
            context=rounds.context,
            outcome=rounds.gold - said,
            arm=rounds.arm,
            n_arms=rounds.n_arms,
            fold=fold,
        )
        return np.asarray(said + gap[np.arange(rounds.n_rounds), rounds.arm])

    def _units(
        self,
        rounds: JudgedRounds,
        j: int,
        expected_gold: PerRound,
        fold: ArmIndex,
        gold_propensity: PerRound | None,
    ) -> _Units:
        has_gold, said = rounds.has_gold, ~np.isnan(rounds.judged[:, j])
        label = rounds.judged[:, j]
        if not said.any():
            said = ~has_gold if not has_gold.all() else has_gold
            label = rounds.expected[:, j]
        gold_row, judge_row = np.flatnonzero(has_gold), np.flatnonzero(said)
        row = np.concatenate([gold_row, judge_row])
        is_gold = np.repeat([1.0, 0.0], [gold_row.size, judge_row.size])
        scaled = self.center_[j] + (label - self.center_[j]) * self.scale_[j]
        expected_judge = self._on_one_scale(rounds.expected)[:, j]
        gold_noise = float(((rounds.gold - expected_gold)[gold_row] ** 2).mean())
        judge_noise = float(((scaled - expected_judge)[judge_row] ** 2).mean())
        return _Units(
            judge=j,
            row=row,
            is_gold=is_gold,
            label=np.concatenate([rounds.gold[gold_row], scaled[judge_row]]),
            propensity=self._propensity(rounds, row, is_gold, fold, gold_propensity),
            expected_gold=expected_gold[row],
            expected_judge=expected_judge[row],
            gold_noise=max(gold_noise, LEAST_NOISE),
            judge_noise=max(judge_noise, LEAST_NOISE),
        )

    def _propensity(
        self,
        rounds: JudgedRounds,
        row: NDArray[np.int64],
        is_gold: PerRound,
        fold: ArmIndex,
        gold_propensity: PerRound | None,
    ) -> PerRound:
        """Return e of every unit."""
        if gold_propensity is not None:
            judged = np.count_nonzero(is_gold == 0) / rounds.n_rounds
            return np.asarray(gold_propensity[row] / (gold_propensity[row] + judged))
        if self.propensity == "estimated":
            # Units of one kind side by side would look like a drift to the check of calibration.
            order = np.random.default_rng(self.seed).permutation(row.size)
            own = rounds.arm[row[order], None] == np.arange(rounds.n_arms)
            estimate = estimate_propensities(
                context=np.hstack([self._components(rounds, row[order]), own]),
                arm=is_gold[order].astype(np.int64),
                n_arms=2,
                fold=fold[row[order]],
            )
            e = np.empty(row.size)
            e[order] = np.clip(estimate.probabilities[:, 1], estimate.floor, 1 - estimate.floor)
            return e
        share = float(is_gold.mean()) if self.propensity == "share" else float(self.propensity)
        return np.full(row.size, share)

    def _overlapping(self, units: _Units, rounds: JudgedRounds) -> _Units:
        """Return the units with overlap."""
        kept = units.propensity * (1 - units.propensity) >= self.least_overlap
        if kept.all():
            return units
        judge = rounds.judges[units.judge]
        if not (kept & (units.is_gold == 1)).any() or not (kept & (units.is_gold == 0)).any():
            raise OverlapError(
                f"positivity: gold labels and those of {judge} must lie among the same prompts and models; got "
                f"e (1 - e) under {self.least_overlap:g} for all of one kind; have answers it judged gold-labelled"
            )
        warnings.warn(
            f"{1 - kept.mean():.0%} of the labels of gold and {judge} lie where one of the two is all but certain, "
            f"e (1 - e) under {self.least_overlap:g}: the bias of {judge} is learned without them and extended to them",
            OverlapWarning,
            stacklevel=3,
        )
        return replace(
            units,
            row=units.row[kept],
            is_gold=units.is_gold[kept],
            label=units.label[kept],
            propensity=units.propensity[kept],
            expected_gold=units.expected_gold[kept],
            expected_judge=units.expected_judge[kept],
        )

    def _regressed(
        self, rounds: JudgedRounds, units: Sequence[_Units]
    ) -> Iterator[tuple[NDArray[np.float64], PerRound]]:
        """Yield designs and outcomes of all judges' units, some at a time."""
        width = sum(block.n_columns for block in self._blocks())
        for each in units:
            factor, outcome = self._weighted(each, n_judges=len(units))
            for some in batches(np.arange(each.row.size), n_features=2 * width):
                yield factor[some, None] * self._design(rounds, each.row[some], each.judge), outcome[some]

    def _blocks(self) -> list[Block]:
        """Return the prior of the effect: what is an arm's or a judge's own is shrunk towards what is shared."""
        n_arms, n_judges, n_axes = len(self.arms_), len(self.judges_), self._n_axes
        blocks = [
            Block(name="constant", n_columns=1, variance=0.1, log_sd=0.0),
            Block(name="prompt", n_columns=n_axes, variance=0.005),
        ]
        if n_arms > 1:
            blocks += [
                Block(name="arm", n_columns=n_arms, variance=0.01),
                Block(name="prompt by arm", n_columns=n_arms * n_axes, variance=0.002),
            ]
        if n_judges > 1:
            blocks += [
                Block(name="judge", n_columns=n_judges, variance=0.01),
                Block(name="prompt by judge", n_columns=n_judges * n_axes, variance=0.002),
            ]
        if n_arms > 1 and n_judges > 1:
            blocks.append(Block(name="arm by judge", n_columns=n_arms * n_judges, variance=0.005))
        return blocks

    @property
    def _n_axes(self) -> int:
        return min(self.n_components, int(self.axes_.variance.size))

    def _components(self, rounds: JudgedRounds, row: NDArray[np.int64]) -> NDArray[np.float64]:
        components = self.axes_.components(rounds.context[row], first=0, last=self._n_axes).T
        return np.asarray(components * self.axis_scale_, dtype=np.float64)

    def _design(self, rounds: JudgedRounds, row: NDArray[np.int64], judge: int) -> NDArray[np.float64]:
        """Return the features of the effect of one judge in these rounds, in the order of the blocks."""
        n_arms, n_judges = len(self.arms_), len(self.judges_)
        z = self._components(rounds, row)
        own = rounds.arm[row, None] == np.arange(n_arms)
        columns = [np.ones((row.size, 1)), z]
        if n_arms > 1:
            columns += [own, (own[:, :, None] * z[:, None, :]).reshape(row.size, -1)]
        if n_judges > 1:
            mine = np.tile(np.arange(n_judges) == judge, (row.size, 1))
            columns += [mine, (mine[:, :, None] * z[:, None, :]).reshape(row.size, -1)]
            if n_arms > 1:
                columns.append((own[:, :, None] & mine[:, None, :]).reshape(row.size, -1))
        return np.hstack(columns).astype(np.float64, copy=False)

    def _effects(self, rounds: JudgedRounds) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return every judge's effect and its posterior standard deviation, (n_rounds, n_judges)."""
        effect, error = np.empty((2, rounds.n_rounds, len(self.judges_)))
        width = sum(block.n_columns for block in self._blocks())
        for j in range(len(self.judges_)):
            for some in batches(np.arange(rounds.n_rounds), n_features=2 * width):
                design = self._design(rounds, some, j)
                effect[some, j] = self.regression_.predict(design)
                error[some, j] = np.sqrt(np.maximum(self.regression_.variance(design), 0))
        return effect, error

    def _learn_noise(self, rounds: JudgedRounds) -> None:
        """Learn how far gold is from each judge's corrected label, where enough rounds have both."""
        pairs = rounds.take(np.flatnonzero(rounds.has_gold))
        said = ~np.isnan(pairs.judged)
        corrected = self._on_one_scale(pairs.judged) + self._effects(pairs)[0]
        for j in np.flatnonzero(said.sum(axis=0) >= PAIRS_ENOUGH):
            residual = (pairs.gold - corrected[:, j])[said[:, j]]
            self.noise_[j] = max(float((residual**2).mean()), LEAST_NOISE)


class RLearner(_EffectLearner):
    """Delta(x, arm) = E[gold - judge | x, arm] by residual on residual, generalised to arms and judges.

    Each label is a unit: z = 1 for gold, o the label. With e = P(z = 1 | x, arm), mu_z = E[o | x, arm, z] and
    m = E[o | x, arm] = e mu_1 + (1 - e) mu_0, all out of fold, Delta minimises

        sum_units w_z ( o - m - (z - e) Delta(x, arm) )^2,

    the regression of (o - m) / (z - e) with weights (z - e)^2. Delta_j of judge j is linear in leading principal
    components of the context, the arm and their products, and in the judge and its products with them. Coefficients
    are normal about zero with a variance for each group of them, chosen by evidence (`BlockRidge`): an arm's own
    deviation is shrunk towards what arms share, a judge's towards what judges share, as far as they are not seen to
    differ.

    Weights w_1 = 1 / (J var(gold - mu_1)), w_0 = 1 / var(judge - mu_0) make the noise alike in all units, without
    which the evidence would take a few noisy gold labels for as telling as many of a judge; J is the number of judges,
    for each of which a gold label counts once. e and m are then those under the weights, which leaves the regression
    orthogonal to errors of the nuisances. Equal weights are the literal form.

    The label in gold units is judge + Delta(x, arm), within [0, 1].

    econml and causalml have R- and DR-learners of one treatment's effect. This one is written here for the pooling over
    arms and judges at once, its posterior error, and because neither is a small dependency.

    Args:
        n_components: Principal components of the standardised context.
        propensity: Which share of labels is gold: `share` of those seen, right where gold rounds were drawn at random;
            `estimated` by a logit on components and arm, out of fold; or a known number in (0, 1).
        least_overlap: Units whose e (1 - e) is smaller are left out, said aloud, where e is not one number.
        match_scales: Whether to give each judge's labels gold's variance first, about their mean, as in the paper. Not
            where gold is right or wrong and a judge gives shades: that a right judge varies less is no bias.
        outcome_model: Learns what gold differs by from the judges, per arm, for mu_1; `PerArmRidge()` where None. mu_0
            is `JudgedRounds.expected`.
        n_folds: Folds of the nuisances; rounds of one prompt share one.
        seed: Draws the folds.

    Attributes:
        regression_: The regression of the effect.
        noise_: (n_judges,) variance of gold about a judge's corrected label; of the judge's label about what it is
            expected to say, where it scored fewer than `PAIRS_ENOUGH` gold rounds.
        n_units_: Units learned from, by judge.

    References:
        Zhang, Xie, Yang and Wu (2026), ICLR, arXiv 2509.25535: who judged as the treatment; Nie and Wager (2021),
        Biometrika 108(2): the R-learner. Arms, judges, pooling and the noise weights are ours.
    """

    name = "r-learner"

    def _weighted(self, units: _Units, *, n_judges: int) -> tuple[PerRound, PerRound]:
        of_gold, of_judge = 1 / (n_judges * units.gold_noise), 1 / units.judge_noise
        e = units.propensity * of_gold / (units.propensity * of_gold + (1 - units.propensity) * of_judge)
        m = e * units.expected_gold + (1 - e) * units.expected_judge
        root = np.sqrt(np.where(units.is_gold == 1, of_gold, of_judge))
        return root * (units.is_gold - e), root * (units.label - m)


class DRLearner(_EffectLearner):
    """Delta(x, arm) = E[gold - judge | x, arm] by regression of doubly robust scores, generalised to arms and judges.

    With units, nuisances, features, pooling, options and attributes those of `RLearner`, Delta is the regression of

        (z - e) / (e (1 - e)) (o - mu_z) + mu_1 - mu_0    on x and arm.

    A unit weighs 1 / (var(gold - mu_1) / e + var(judge - mu_0) / (1 - e)) / J, which depends on x and arm alone, so
    that it changes no expectation. Consistent if e or the mu are right. Where an arm has few gold labels they move
    mu_1 for all of its units alike, of which the evidence knows nothing: `RLearner` shrinks such an arm more.

    References:
        Zhang, Xie, Yang and Wu (2026), ICLR, arXiv 2509.25535; Kennedy (2023), EJS 17(2): the DR-learner. Arms, judges
        and pooling are ours.
    """

    name = "dr-learner"

    def _weighted(self, units: _Units, *, n_judges: int) -> tuple[PerRound, PerRound]:
        e, is_gold = units.propensity, units.is_gold
        residual = units.label - np.where(is_gold == 1, units.expected_gold, units.expected_judge)
        score = (is_gold - e) / (e * (1 - e)) * residual + units.expected_gold - units.expected_judge
        root = 1 / np.sqrt(n_judges * (units.gold_noise / e + units.judge_noise / (1 - e)))
        return root, root * score
