"""Rounds that several sources judged, and what turns their judgements into expected gold labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from pointsman.errors import InvalidParameterError, NotFittedError
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.types import ArmIndex, Context, PerRound

N_FOLDS = 5
"""Folds in which what a judge would say is predicted from what it said elsewhere."""


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedRounds:
    """Rounds with the labels of several sources; validated once, when it is built.

    Attributes:
        context: (n_rounds, n_features) features of each round's prompt.
        arm: (n_rounds,) the arm whose answer was judged.
        judged: (n_rounds, n_judges) each judge's label, in [0, 1]; NaN where the judge said nothing.
        gold: (n_rounds,) the gold label, in [0, 1]; NaN where there is none.
        group: (n_rounds,) label of the prompt: rounds of one prompt share a fold.
        arms: Name of every arm.
        judges: Name of every judge.
    """

    context: Context
    arm: ArmIndex
    judged: NDArray[np.float64]
    gold: PerRound
    group: NDArray[np.int64]
    arms: Sequence[str]
    judges: Sequence[str]

    def __post_init__(self) -> None:
        n_features = self.context.shape[-1] if self.context.ndim == 2 else "n_features"
        shapes = {
            "context": (self.context.shape, (self.gold.size, n_features)),
            "arm": (self.arm.shape, self.gold.shape),
            "group": (self.group.shape, self.gold.shape),
            "judged": (self.judged.shape, (self.gold.size, len(self.judges))),
        }
        for name, (got, needed) in shapes.items():
            if got != needed:
                raise InvalidParameterError(
                    f"{name} must have shape ({', '.join(map(str, needed))}), one row a round, like gold; got {got}"
                )
        foreign = (self.arm < 0) | (self.arm >= len(self.arms))
        if foreign.any():
            raise InvalidParameterError(
                f"arm must be in [0, {len(self.arms)}), a place in arms; got {self.arm[foreign][0]}"
            )
        for name, labels in (("gold", self.gold), ("judged", self.judged)):
            outside = (labels < 0) | (labels > 1)  # false for NaN
            if outside.any():
                raise InvalidParameterError(
                    f"{name} must hold labels in [0, 1]; got {labels[outside][0]}; rescale that source"
                )

    @property
    def n_rounds(self) -> int:
        """Number of rounds."""
        return int(self.gold.size)

    @property
    def n_arms(self) -> int:
        """Number of arms."""
        return len(self.arms)

    @property
    def n_judges(self) -> int:
        """Number of judges."""
        return len(self.judges)

    @property
    def has_gold(self) -> NDArray[np.bool_]:
        """(n_rounds,) whether the gold label is known."""
        return ~np.isnan(self.gold)

    @property
    def is_judged(self) -> NDArray[np.bool_]:
        """(n_rounds,) whether any judge said something."""
        return np.asarray((~np.isnan(self.judged)).any(axis=1))

    @cached_property
    def expected(self) -> NDArray[np.float64]:
        """(n_rounds, n_judges) what each judge would be expected to say of this arm's answer to such a prompt.

        By a ridge per arm that never saw the judge's labels of the round's prompt; the judge's mean where it said too
        little to learn from. Labels of a judge that said nothing at all are expected to be 0.5.
        """
        from pointsman.nuisance.ridge import PerArmRidge

        expected = np.empty((self.n_rounds, self.n_judges))
        n_folds = min(N_FOLDS, np.unique(self.group).size)
        fold = assign_folds(self.n_rounds, n_folds=n_folds, seed=0, groups=self.group) if n_folds > 1 else None
        row = np.arange(self.n_rounds)
        for j in range(self.n_judges):
            said = ~np.isnan(self.judged[:, j])
            if fold is None or np.unique(fold[said]).size < 2:
                expected[:, j] = self.judged[said, j].mean() if said.any() else 0.5
                continue
            predicted = cross_fit_outcomes(
                PerArmRidge(),
                context=self.context,
                outcome=self.judged[:, j],
                arm=self.arm,
                n_arms=self.n_arms,
                fold=fold,
            )
            expected[:, j] = np.clip(predicted[row, self.arm], 0, 1)
        return expected

    def take(self, indices: ArrayLike) -> JudgedRounds:
        """Return the rounds at these indices, or where this mask holds, with what was expected of the judges."""
        rows = np.asarray(indices)
        taken = replace(
            self,
            context=self.context[rows],
            arm=self.arm[rows],
            judged=self.judged[rows],
            gold=self.gold[rows],
            group=self.group[rows],
        )
        return taken._expecting(self.expected[rows])

    def without_gold(self, hidden: NDArray[np.bool_]) -> JudgedRounds:
        """Return the rounds with the gold labels hidden where the mask holds; the judges' stay."""
        return replace(self, gold=np.where(hidden, np.nan, self.gold))._expecting(self.expected)

    def with_judged(self, judged: NDArray[np.float64]) -> JudgedRounds:
        """Return the rounds with other labels of the judges; what was expected of them stays."""
        return replace(self, judged=judged)._expecting(self.expected)

    def _expecting(self, expected: NDArray[np.float64]) -> JudgedRounds:
        # Kept: no gold label plays a part in it, and it is most of the work.
        self.__dict__["expected"] = expected
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Corrected:
    """Labels in gold units.

    Attributes:
        quality: (n_rounds,) expected gold label; NaN where the method has nothing to go by.
        error: (n_rounds,) standard error of that expectation, of what was learned from few gold labels; NaN where
            the method does not know it.
    """

    quality: PerRound
    error: PerRound


class Correction(BaseEstimator, ABC):  # type: ignore[misc]
    """What predicts a round's gold label from its prompt, its arm and what the judges said of it.

    Follows scikit-learn's rules: the constructor stores, `fit` learns and returns self, learned names end in `_`.
    """

    name: ClassVar[str]

    def __getattr__(self, attribute: str) -> Any:
        if attribute.endswith("_") and not attribute.startswith("_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted, so it has no {attribute!r}; call fit first")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {attribute!r}")

    @abstractmethod
    def fit(self, rounds: JudgedRounds) -> Self:
        """Learn from the rounds whose gold label is known, and from what the judges said of all of them.

        Raises:
            InvalidParameterError: The rounds hold too little to learn from.
        """

    @abstractmethod
    def correct(self, rounds: JudgedRounds) -> Corrected:
        """Return the expected gold label of each round. `rounds.gold` is never looked at."""

    def predict(self, rounds: JudgedRounds) -> PerRound:
        """Return the expected gold label of each round alone, which may cost less than `correct`."""
        return self.correct(rounds).quality
