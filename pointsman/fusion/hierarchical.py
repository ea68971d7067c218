"""The default: a calibration of the judges, partially pooled over arms and judges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.fusion.base import Corrected, Correction, JudgedRounds
from pointsman.nuisance.batches import batches
from pointsman.nuisance.blocks import Block, BlockRidge
from pointsman.types import ArmIndex, Context, PerRound

MAX_AXES_ROUNDS = 20_000
"""Rounds by which the leading directions of the context are found: more would not move them."""

LOG_SD = 1.0
"""Standard deviation of the prior on the logarithm of each variance: a hundred gold labels say little of it."""

LEAST_PAIRS = 30
"""Rounds that two judges must share before their agreement says how far to trust a surprise."""


LEAST_VARIANCE = 0.05
"""Added to the m (1 - m) of a label, so that none is taken for certain."""


class Hierarchical(Correction):
    """Predicts gold from what the judges say, what they would be expected to say, the arm and the prompt.

    With p_j what judge j is expected to say of this arm's answer to such a prompt (`JudgedRounds.expected`), s_j its
    surprise, what it said minus p_j, 0 where it said nothing, and p, s their means over judges, z leading components
    of the context and t the arm,

        gold = p + r s + b + b_t + p k + s k' + sum_j [ (p_j - p) c_j + (s_j - s) c'_j ] + p k_t + s k'_t
               + sum_j (p_j - p) c_tj + h f + d f' + z . g + z . g_t + noise,

    with r in [1/2, 1] how far the judges' surprises agree (`_reliability`), h = (p + s)^2 about its centre and d the
    judges' spread. Every coefficient is normal about zero, so that without gold labels the judges are believed; those
    in one group (all b_t, say) share a variance, and the variances are chosen by evidence (`BlockRidge`). So a judge's
    constant is learned from all gold labels, an arm's from its own as far as arms are seen to differ, a slope below one
    where the judge is noisy, and a bias that depends on the prompt where enough gold labels show one. An arm that games
    the judge has b_t + p k_t far below zero, which no other arm inherits: it only widens the variance of all b_t. The
    noise is that of a share, of variance proportional to m (1 - m) + 0.05 about an expected m.

    A judge that scores gold rounds, too, is calibrated by what it said; one that never does only by what it would have
    been expected to say, and its surprises are believed as they are.

    Args:
        n_components: Components of the context in z.

    Attributes:
        regression_: The regression of gold minus (p + r s), over the deviation of a share.
        noise_: Variance of a gold label about its expectation, in units of that of a share.
        reliability_: r.

    References:
        Zhang, Xie, Yang and Wu (2026), ICLR: a judge's bias as a conditional effect, there o + Delta(x); Angelopoulos,
        Duchi and Zrnic (2023), arXiv 2311.01453: a slope below one for a noisy judge; Gelman and Hill (2007): partial
        pooling. Their combination is this package's own.
    """

    name = "hierarchical"

    def __init__(self, *, n_components: int = 16) -> None:
        self.n_components = n_components

    def fit(self, rounds: JudgedRounds) -> Self:
        """Learn from the rounds whose gold label is known and whose judges can be expected."""
        rows = np.flatnonzero(rounds.has_gold)
        if rows.size < 2:
            raise InvalidParameterError(f"rounds must hold at least 2 gold labels to learn from; got {rows.size}")
        if rounds.n_judges == 0:
            raise InvalidParameterError("rounds must hold the labels of at least one judge; got none")
        self._find_axes(rounds.context)
        self.center_ = rounds.expected.mean(axis=0)
        self.heard_ = float(self.center_.mean())
        self.reliability_ = _reliability(rounds)
        layout = self._layout(rounds)
        self.regression_ = BlockRidge(layout.blocks, noise=0.02).fit(
            _weighted(layout.whole(design, arm=rounds.arm[some]), rounds.gold[some] - believed, believed)
            for some, design, believed in self._designs(rounds, rows)
        )
        self.noise_ = self.regression_.noise_
        return self

    def correct(self, rounds: JudgedRounds) -> Corrected:
        """Return the expected gold label of each round, within [0, 1], and its posterior standard deviation."""
        columns = self._layout(rounds).columns
        coef, covariance = self.regression_.coef_[columns], self.regression_.covariance_
        quality, error = np.empty(rounds.n_rounds), np.empty(rounds.n_rounds)
        for some, design, believed in self._designs(rounds, np.arange(rounds.n_rounds)):
            arm = rounds.arm[some]
            quality[some] = believed + np.einsum("ij,ij->i", design, coef[arm])
            for t in np.unique(arm):
                mine = np.flatnonzero(arm == t)
                of_arm = design[mine]
                variance = np.einsum("ij,ij->i", of_arm @ covariance[np.ix_(columns[t], columns[t])], of_arm)
                error[some[mine]] = np.sqrt(np.maximum(variance, 0))
        return Corrected(quality=np.clip(quality, 0, 1), error=error)

    def predict(self, rounds: JudgedRounds) -> PerRound:
        """Return the expected gold label of each round, within [0, 1]."""
        coef = self.regression_.coef_[self._layout(rounds).columns]
        quality = np.empty(rounds.n_rounds)
        for some, design, believed in self._designs(rounds, np.arange(rounds.n_rounds)):
            quality[some] = believed + np.einsum("ij,ij->i", design, coef[rounds.arm[some]])
        return np.clip(quality, 0, 1)

    def design(self, rounds: JudgedRounds) -> tuple[NDArray[np.float64], PerRound]:
        """Return the row of each round in the regression, (n_rounds, n_columns), and the variance of its gold label.

        A gold label is normal about what is believed plus row . w, with this variance, and w about `regression_.coef_`
        with `regression_.covariance_`: what is needed to tell beforehand what a gold label would change.
        """
        design, believed = self._design(rounds, np.arange(rounds.n_rounds))
        root, _ = _weighted(np.ones((rounds.n_rounds, 1)), np.zeros(rounds.n_rounds), believed)
        return self._layout(rounds).whole(design, arm=rounds.arm), self.noise_ / root[:, 0] ** 2

    def _layout(self, rounds: JudgedRounds) -> _Layout:
        n_axes, n_judges = self.axes_.shape[1], rounds.n_judges
        shared = [
            Block(name="constant", n_columns=1, variance=0.1, log_sd=0.0),
            Block(name="expected", n_columns=1, variance=0.01, log_sd=LOG_SD),
            Block(name="surprise", n_columns=1, variance=0.01, log_sd=LOG_SD),
            Block(name="bend", n_columns=2, variance=0.01, log_sd=LOG_SD),
            Block(name="prompt", n_columns=n_axes, variance=0.0002, log_sd=LOG_SD),
        ]
        if n_judges > 1:
            shared += [
                Block(name="expected of judge", n_columns=n_judges, variance=0.01, log_sd=LOG_SD),
                Block(name="surprise of judge", n_columns=n_judges, variance=0.01, log_sd=LOG_SD),
            ]
        of_arm = []
        if rounds.n_arms > 1:
            of_arm = [
                Block(name="arm", n_columns=1, variance=0.001, log_sd=2 * LOG_SD),
                Block(name="expected by arm", n_columns=1, variance=0.003, log_sd=LOG_SD),
                Block(name="surprise by arm", n_columns=1, variance=0.003, log_sd=LOG_SD),
                Block(name="prompt by arm", n_columns=n_axes, variance=0.0001, log_sd=LOG_SD),
            ]
            if n_judges > 1:
                of_arm.append(Block(name="judge by arm", n_columns=n_judges, variance=0.002, log_sd=LOG_SD))
        return _Layout(shared=shared, of_arm=of_arm, n_arms=rounds.n_arms)

    def _designs(
        self, rounds: JudgedRounds, rows: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], PerRound]]:
        """Yield some rows at a time: which, their design, and p + r s."""
        width = self._layout(rounds).columns.shape[1]
        for some in batches(rows, n_features=2 * width + rounds.context.shape[1]):
            yield some, *self._design(rounds, some)

    def _design(self, rounds: JudgedRounds, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], PerRound]:
        """Return what is shared and what is the round's own arm's, (n_rows, n_columns); no other arm's."""
        expected = rounds.expected[rows]
        said = ~np.isnan(rounds.judged[rows])
        surprise = np.where(said, rounds.judged[rows] - expected, 0.0)
        mean = expected.mean(axis=1)
        n_said = np.maximum(said.sum(axis=1), 1)
        mean_surprise = surprise.sum(axis=1) / n_said
        centred = expected - self.center_
        level = centred.mean(axis=1)
        z = self._components(rounds.context[rows])
        heard = mean + mean_surprise - self.heard_
        apart_by = np.sqrt(((surprise + expected - (mean + mean_surprise)[:, None]) ** 2).mean(axis=1))
        one = np.ones(rows.size)
        columns = [np.column_stack([one, level, mean_surprise, heard**2, apart_by]), z]
        apart = centred - level[:, None]
        if rounds.n_judges > 1:
            columns += [apart, np.where(said, surprise - mean_surprise[:, None], 0.0)]
        if rounds.n_arms > 1:
            columns += [np.column_stack([one, level, mean_surprise]), z]
            if rounds.n_judges > 1:
                columns.append(apart)
        return np.hstack(columns).astype(np.float64, copy=False), mean + self.reliability_ * mean_surprise

    def _find_axes(self, context: Context) -> None:
        """Find the leading components, scaled so that a coefficient's prior variance is that of their sum's."""
        step = max(1, len(context) // MAX_AXES_ROUNDS)
        some = context[::step].astype(np.float64)
        self.context_mean_ = some.mean(axis=0)
        covariance = np.cov(some, rowvar=False).reshape(some.shape[1], -1)
        variance, axes = np.linalg.eigh(covariance)
        kept = np.argsort(variance)[::-1][: self.n_components]
        kept = kept[variance[kept] > 1e-9 * max(float(variance.max()), np.finfo(np.float64).tiny)]
        # Components keep their relative variances: what moves prompts most is believed to move a judge's bias most.
        self.axes_ = axes[:, kept] / np.sqrt(max(float(variance[kept].sum()), np.finfo(np.float64).tiny))

    def _components(self, context: Context) -> Context:
        precision = np.result_type(context.dtype, np.float32)
        return np.asarray((context - self.context_mean_.astype(precision)) @ self.axes_.astype(precision))


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the regression's columns are: first the shared blocks, then, block by block, those of every arm.

    Attributes:
        shared: Blocks of columns that all arms share.
        of_arm: Blocks of columns of one arm; every arm has its own, under one variance.
        n_arms: Number of arms.
    """

    shared: list[Block]
    of_arm: list[Block]
    n_arms: int

    @property
    def blocks(self) -> list[Block]:
        """Every block, with the columns of all arms."""
        return [*self.shared, *(replace(block, n_columns=self.n_arms * block.n_columns) for block in self.of_arm)]

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """(n_arms, n_own) which columns rounds of an arm have, in the order of `Hierarchical._design`."""
        start = sum(block.n_columns for block in self.shared)
        places = [np.tile(np.arange(start), (self.n_arms, 1))]
        for block in self.of_arm:
            places.append(start + np.arange(self.n_arms * block.n_columns).reshape(self.n_arms, -1))
            start += self.n_arms * block.n_columns
        return np.hstack(places)

    def whole(self, design: NDArray[np.float64], *, arm: ArmIndex) -> NDArray[np.float64]:
        """Return the design with the columns of all arms, zero for the others."""
        whole = np.zeros((len(design), sum(block.n_columns for block in self.blocks)))
        np.put_along_axis(whole, self.columns[arm], design, axis=1)
        return whole


def _reliability(rounds: JudgedRounds) -> float:
    """Return (1 + c / v) / 2: c the covariance of two judges' surprises, v the variance of the judges' mean surprise.

    Were gold one more judge like the others, c / v would be its slope on their mean surprise; were their surprises all
    true, it would be one. Halfway between is where the slope's prior is centred; 1 for one judge.
    """
    said = ~np.isnan(rounds.judged)
    surprise = np.where(said, rounds.judged - rounds.expected, 0.0)
    together = said.astype(np.float64)
    count = together.T @ together
    products = surprise.T @ surprise
    n_judges = rounds.n_judges
    pairs = ~np.eye(n_judges, dtype=np.bool_)
    n_pairs = count[pairs].sum()
    if n_judges < 2 or n_pairs < 2 * LEAST_PAIRS:
        return 1.0
    shared = float(products[pairs].sum() / n_pairs)
    own = float(np.trace(products) / max(np.trace(count), 1))
    mean = (own + (n_judges - 1) * shared) / n_judges
    return float(np.clip((1 + shared / mean) / 2, 0.5, 1)) if mean > 0 else 1.0


def _weighted(design: NDArray[np.float64], gap: PerRound, believed: PerRound) -> tuple[NDArray[np.float64], PerRound]:
    """Return rows and outcomes over the standard deviation of a gold label that is believed to be m: that of a share.

    Labels near 0 or 1 scatter less than those between, and weigh more.
    """
    m = np.clip(believed, 0, 1)
    deviation = np.sqrt(4 * (m * (1 - m) + LEAST_VARIANCE))
    return design / deviation[:, None], gap / deviation
