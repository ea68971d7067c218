"""The two-model Meta-Router: a router learned from gold and judges' gains, by name, to compare with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from pointsman.errors import InvalidParameterError, NotFittedError, OverlapWarning
from pointsman.types import Context, PerRound

Effect = Literal["r", "dr", "none"]
Variant = Literal["as-coded", "as-written"]
Sources = Literal["both", "gold", "judge"]

FOREST: Mapping[str, Any] = MappingProxyType({"n_estimators": 100, "max_depth": 20, "max_features": "sqrt"})
EFFECT_FOREST: Mapping[str, Any] = MappingProxyType(
    {"n_estimators": 200, "max_depth": 30, "max_features": "sqrt", "min_samples_leaf": 2}
)
CLIPPED_R, CLIPPED_DR = (0.1, 0.9), (0.05, 0.95)
"""Between what the propensities of the form as coded are clipped."""
LEAST_OVERLAP = 0.05
"""Units with e (1 - e) up to this are dropped by the DR form as coded."""
LARGEST_EFFECT = 1.2
"""Between minus this and this effects of the form as coded are clipped."""
LEAST_OF_A_KIND = 2
"""Labels of gold, and of the judge, without which there is no effect to learn."""
GOLD_A_LEAF = 5
"""Gold labels that a leaf of the effect forest as written is expected to hold."""


class MetaRouter(BaseEstimator):  # type: ignore[misc]
    """Predicts the gain of the strong model over the weak one from few gold gains and many of a judge.

    Each prompt has one label o in [-1, 1], strong minus weak, by gold (z = 1) or by the judge (z = 0). With
    e(s) = P(z = 1 | s), mu_z(s) = E[o | s, z] and m(s) = E[o | s], all of them random forests,

        r:   Delta regresses (o - m) / (z - e) on s with weights (z - e)^2
        dr:  Delta regresses (z - e) / (e (1 - e)) (o - mu_z) + mu_1 - mu_0 on s

    every judge's label is corrected to o + Delta(s), and a forest of gold and corrected labels predicts the gain. First
    the judge's labels are scaled to the variance of gold, about zero, which means the same to both.

    `as-coded`: nuisances and Delta are predicted for the labels they were learned from; e is a forest, too, clipped to
    [0.1, 0.9] (r) or [0.05, 0.95] (dr, which drops units of e (1 - e) <= 0.05); Delta is clipped to +-1.2. Since 1.9
    scikit-learn's forests draw bootstraps by the weights, which once entered the trees: with r, figures depend on it.
    `as-written`: everything is cross-fitted, e is the known share of gold labels n / (n + m), nothing is clipped. A
    forest cross-fits itself: a prompt is predicted by the trees whose bootstrap left it out. A leaf of two judge's
    labels, divided by e, would be noise alone, so leaves are to hold about `GOLD_A_LEAF` gold labels. Both are ours.

    Args:
        effect: How the judge's bias is learned; `none` takes labels as they are.
        variant: `as-coded` or `as-written`; alike where effect is `none`.
        labels: Which labels to learn from, without an effect: both kinds, gold or the judge's alone.
        n_components: Principal components of the features; None takes the features as they are.
        match_scales: Whether the judge's labels are scaled.
        seed: Of the forests.

    Attributes:
        effect_: (n_prompts,) Delta for the prompts learned from; absent where effect is `none`.
        forest_: The forest of the gain.

    References:
        Zhang, Xie, Yang and Wu (2026), ICLR, arXiv 2509.25535, and the settings of its authors' code; Nie and Wager
        (2021), Biometrika 108(2); Kennedy (2023), EJS 17(2); Athey, Tibshirani and Wager (2019), Annals of Statistics
        47(2), for forests that cross-fit themselves.
    """

    def __init__(
        self,
        *,
        effect: Effect = "r",
        variant: Variant = "as-coded",
        labels: Sources = "both",
        n_components: int | None = 50,
        match_scales: bool = True,
        seed: int = 0,
    ) -> None:
        self.effect = effect
        self.variant = variant
        self.labels = labels
        self.n_components = n_components
        self.match_scales = match_scales
        self.seed = seed

    def __getattr__(self, attribute: str) -> Any:
        if attribute.endswith("_") and not attribute.startswith("_"):
            raise NotFittedError(f"{type(self).__name__} has no {attribute!r}: it is not fitted, or not by this effect")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {attribute!r}")

    def fit(self, features: Context, label: PerRound, is_gold: NDArray[np.bool_]) -> Self:
        """Learn the gain.

        Args:
            features: (n_prompts, n_features).
            label: (n_prompts,) gain of strong over weak, in [-1, 1].
            is_gold: (n_prompts,) whether gold judged; else the judge did.

        Raises:
            InvalidParameterError: An option is unknown, a label is outside [-1, 1], or a kind of label is missing.

        Warns:
            OverlapWarning: The DR form as coded dropped units.
        """
        self._check(features, label, is_gold)
        inputs = self._project(features)
        kept = np.ones(label.size, dtype=bool)
        if self.labels != "both":
            kept = is_gold if self.labels == "gold" else ~is_gold
        target = self._on_one_scale(label, is_gold) if self.labels == "both" else label.astype(np.float64)
        if self.effect != "none":
            learn = self._as_coded if self.variant == "as-coded" else self._as_written
            self.effect_ = learn(inputs, target, is_gold.astype(np.float64))
            target = np.where(is_gold, target, target + self.effect_)
        self.forest_ = self._forest().fit(inputs[kept], target[kept])
        return self

    def predict(self, features: Context) -> PerRound:
        """Return the predicted gain of each prompt, (n_prompts,)."""
        return np.asarray(self.forest_.predict(features if self.axes_ is None else self.axes_.transform(features)))

    def choose_strong(
        self, features: Context, *, cost_gap_usd: PerRound | float, quality_per_usd: float
    ) -> NDArray[np.bool_]:
        """Return whether each prompt goes to the strong model: where its predicted gain is worth more than it costs.

        Args:
            features: (n_prompts, n_features).
            cost_gap_usd: What the strong model costs more.
            quality_per_usd: lambda, quality points a US dollar is worth.
        """
        return np.asarray(self.predict(features) > quality_per_usd * np.asarray(cost_gap_usd))

    def _check(self, features: Context, label: PerRound, is_gold: NDArray[np.bool_]) -> None:
        options = {
            "effect": ("r", "dr", "none"),
            "variant": ("as-coded", "as-written"),
            "labels": ("both", "gold", "judge"),
        }
        for name, known in options.items():
            if getattr(self, name) not in known:
                raise InvalidParameterError(f"{name} must be among {known}; got {getattr(self, name)!r}")
        if self.effect != "none" and self.labels != "both":
            raise InvalidParameterError(f"labels must be 'both' where an effect is learned; got {self.labels!r}")
        if not len(features) == label.size == is_gold.size:
            raise InvalidParameterError(
                f"features, label and is_gold must be of one length; got {len(features)}, {label.size}, {is_gold.size}"
            )
        outside = ~(abs(label) <= 1)  # true for NaN as well
        if outside.any():
            raise InvalidParameterError(f"label must be a gain in [-1, 1]; got {label[outside][0]}")
        n_gold, n_judge = int(is_gold.sum()), int((~is_gold).sum())
        needed = {"n_gold": self.labels == "gold", "n_judge": self.labels == "judge"}
        if self.effect != "none":
            needed = dict.fromkeys(needed, True)
        least = LEAST_OF_A_KIND if self.effect != "none" else 1
        for name, n_labels in (("n_gold", n_gold), ("n_judge", n_judge)):
            if needed[name] and n_labels < least:
                raise InvalidParameterError(
                    f"is_gold must leave at least {least} labels of each kind; got {name} {n_labels}"
                )
        if label.size == 0:
            raise InvalidParameterError("label must hold at least one gain; got none")

    def _project(self, features: Context) -> Context:
        from sklearn.decomposition import PCA

        self.axes_ = None
        if self.n_components is None:
            return features
        self.axes_ = PCA(min(self.n_components, *features.shape), svd_solver="full").fit(features)
        return np.asarray(self.axes_.transform(features))

    def _on_one_scale(self, label: PerRound, is_gold: NDArray[np.bool_]) -> PerRound:
        if not self.match_scales or is_gold.all() or not is_gold.any():
            return label.astype(np.float64)
        of_gold, of_judge = float(label[is_gold].std()), float(label[~is_gold].std())
        scale = of_gold / of_judge if of_gold > 0 and of_judge > 0 else 1.0
        return np.where(is_gold, label, scale * label)

    def _forest(self) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(**FOREST, random_state=self.seed)

    def _as_coded(self, inputs: Context, o: PerRound, z: PerRound) -> PerRound:
        """Return Delta at the prompts learned from, all in sample."""
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        logger = RandomForestClassifier(**FOREST, random_state=self.seed).fit(inputs, z)
        e = logger.predict_proba(inputs)[:, 1]
        kept = np.ones(o.size, dtype=bool)
        if self.effect == "r":
            e = np.clip(e, *CLIPPED_R)
            m = self._forest().fit(inputs, o).predict(inputs)
            target, weight = (o - m) / (z - e), np.asarray((z - e) ** 2)
        else:
            e = np.clip(e, *CLIPPED_DR)
            means = [self._forest().fit(inputs[z == k], o[z == k]).predict(inputs) for k in (0, 1)]
            target, weight = _doubly_robust(o, z, e=e, of_judge=means[0], of_gold=means[1]), None
            kept = e * (1 - e) > LEAST_OVERLAP
            if not kept.all():
                warnings.warn(
                    f"{1 - kept.mean():.0%} of the labels have e (1 - e) up to {LEAST_OVERLAP:g} and are left out of "
                    "the effect, as the form as coded does; the form as written knows e and needs no trimming",
                    OverlapWarning,
                    stacklevel=3,
                )
            if not kept.any():
                return np.zeros(o.size)
        effect = RandomForestRegressor(**EFFECT_FOREST, random_state=self.seed)
        effect.fit(inputs[kept], target[kept], sample_weight=None if weight is None else weight[kept])
        return np.asarray(np.clip(effect.predict(inputs), -LARGEST_EFFECT, LARGEST_EFFECT))

    def _as_written(self, inputs: Context, o: PerRound, z: PerRound) -> PerRound:
        """Return Delta at the prompts learned from, everything by trees that did not see them."""
        e = np.full(z.size, z.mean())
        means = self._means_out_of_bag(inputs, o, z)
        if self.effect == "r":
            m = e * means[1] + (1 - e) * means[0]
            target, weight = (o - m) / (z - e), (z - e) ** 2
        else:
            target, weight = _doubly_robust(o, z, e=e, of_judge=means[0], of_gold=means[1]), np.ones(z.size)
        return self._effect_out_of_bag(inputs, target, weight, least_leaf=math.ceil(GOLD_A_LEAF / float(e[0])))

    def _means_out_of_bag(self, inputs: Context, o: PerRound, z: PerRound) -> NDArray[np.float64]:
        """Return mu_0 and mu_1 of every prompt, (2, n_prompts)."""
        from sklearn.ensemble import RandomForestRegressor

        means = np.empty((2, z.size))
        for k in (0, 1):
            forest = RandomForestRegressor(**FOREST, oob_score=True, random_state=self.seed)
            forest.fit(inputs[z == k], o[z == k])
            means[k, z == k] = forest.oob_prediction_
            means[k, z != k] = forest.predict(inputs[z != k])
        return means

    def _effect_out_of_bag(self, inputs: Context, target: PerRound, weight: PerRound, *, least_leaf: int) -> PerRound:
        """Return the mean prediction of the trees whose bootstrap left the prompt out.

        Weights enter the trees. Since 1.9 scikit-learn's forests draw bootstraps by them, and the few gold labels would
        be in every one.
        """
        from sklearn.tree import DecisionTreeRegressor

        rng = np.random.default_rng(self.seed)
        total, n_trees = np.zeros((2, target.size))
        narrow = np.ascontiguousarray(inputs, dtype=np.float32)  # what trees work in: converted once, not by each
        settings = {**EFFECT_FOREST, "min_samples_leaf": least_leaf}
        for _ in range(settings.pop("n_estimators")):
            drawn = np.bincount(rng.integers(target.size, size=target.size), minlength=target.size)
            inside, outside = np.flatnonzero(drawn), np.flatnonzero(drawn == 0)
            tree = DecisionTreeRegressor(**settings, random_state=int(rng.integers(2**31)))
            tree.fit(narrow[inside], target[inside], sample_weight=(drawn * weight)[inside], check_input=False)
            total[outside] += tree.predict(narrow[outside], check_input=False)
            n_trees[outside] += 1
        return np.asarray(total / np.maximum(n_trees, 1))


class _Setting(NamedTuple):
    effect: Effect
    labels: Sources


META_ROUTERS = MappingProxyType(
    {
        "all-gold": _Setting("none", "gold"),
        "r": _Setting("r", "both"),
        "dr": _Setting("dr", "both"),
        "pooled": _Setting("none", "both"),
        "judge-only": _Setting("none", "judge"),
        "gold-only": _Setting("none", "gold"),
    }
)
"""Meta-Router and what it is compared with. `all-gold` is `gold-only` where every label is gold."""


def meta_router(name: str, **options: Any) -> MetaRouter:
    """Return a router by name, one of `META_ROUTERS`, with other options of `MetaRouter`.

    Raises:
        InvalidParameterError: There is no such name.
    """
    if name not in META_ROUTERS:
        raise InvalidParameterError(f"name must be among {list(META_ROUTERS)}; got {name!r}")
    return MetaRouter(**META_ROUTERS[name]._asdict(), **options)


def _doubly_robust(o: PerRound, z: PerRound, *, e: PerRound, of_judge: PerRound, of_gold: PerRound) -> PerRound:
    """Return (z - e) / (e (1 - e)) (o - mu_z) + mu_1 - mu_0."""
    return (z - e) / (e * (1 - e)) * (o - np.where(z == 1, of_gold, of_judge)) + of_gold - of_judge
