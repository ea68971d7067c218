"""The same numbers as the peers, on the same logs, folds and nuisances: `python -m benchmarks.peers.agreement`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import grid
from benchmarks.peers.logs import BanditLog
from pointsman.nuisance.cross_fit import cross_fit_outcomes
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.ope.estimators import dm, dr, dros, ips, sndr, snips, switch_dr
from pointsman.scores import pseudo_outcomes
from pointsman.types import PerArm

SAME_INPUTS = 1e-10
"""Largest difference allowed where both sides get the same predictions and propensities."""
SAME_FOLDS = 1e-8
"""The same where both sides fit the same learners on the same folds, by different algorithms."""

PARAMETERS = (0.5, 2.0, 10.0, 1000.0)
"""Thresholds and shrinkages compared."""

RIDGE_PENALTY = 1.0
N_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One quantity by Pointsman and by a peer, over several logs and policies.

    Attributes:
        peer: Who else computed it.
        quantity: What.
        n_compared: Numbers compared.
        difference: The largest absolute difference.
        allowed: The largest allowed.
    """

    peer: str
    quantity: str
    n_compared: int
    difference: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether it is within what is allowed; false for NaN."""
        return self.difference <= self.allowed


def main() -> int:
    """Print the comparisons and return 1 if one disagrees."""
    comparisons = compare()
    print("\n".join(section(comparisons)))
    return 0 if all(each.agrees for each in comparisons) else 1


def compare() -> list[Comparison]:
    """Return every comparison."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    return [*_with_obp(), *_with_vw_estimators(), *_with_doubleml(), *_with_econml()]


def section(comparisons: list[Comparison]) -> list[str]:
    """Return the section of the report."""
    rows = [
        [
            each.peer,
            each.quantity,
            f"{each.n_compared:,}",
            f"{each.difference:.1e}",
            f"{each.allowed:.0e}",
            "yes" if each.agrees else "**no**",
        ]
        for each in comparisons
    ]
    return [
        "## Agreement",
        "",
        "Largest absolute difference over logs and policies. With obp and vw-estimators both sides get the same "
        "predictions and propensities; with doubleml and econml both fit a ridge per arm and a logit on the same "
        "folds.",
        "",
        *grid(["peer", "quantity", "numbers", "difference", "allowed", "agrees"], rows),
    ]


def _with_obp() -> Iterator[Comparison]:
    import obp.ope as peer

    cases = list(_obp_cases())
    pairs: list[tuple[str, Any, Any]] = [
        ("dm", peer.DirectMethod(), lambda inputs: dm(**_without(inputs, "arm", "outcome", "propensity"))),
        ("ips", peer.InverseProbabilityWeighting(), lambda inputs: ips(**_without(inputs, "predicted"))),
        (
            "snips",
            peer.SelfNormalizedInverseProbabilityWeighting(),
            lambda inputs: snips(**_without(inputs, "predicted")),
        ),
        ("dr", peer.DoublyRobust(), lambda inputs: dr(**inputs)),
        ("sndr", peer.SelfNormalizedDoublyRobust(), lambda inputs: sndr(**inputs)),
    ]
    for parameter in PARAMETERS:
        pairs += [
            (
                f"switch_dr at {parameter:g}",
                peer.SwitchDoublyRobust(lambda_=parameter),
                lambda inputs, parameter=parameter: switch_dr(**inputs, threshold=parameter),
            ),
            (
                f"dros at {parameter:g}",
                peer.DoublyRobustWithShrinkage(lambda_=parameter),
                lambda inputs, parameter=parameter: dros(**inputs, shrinkage=parameter),
            ),
        ]
    for name, theirs, ours in pairs:
        differences = []
        for log, predicted in cases:
            value = theirs.estimate_policy_value(
                reward=log.outcome,
                action=log.arm,
                pscore=log.propensity,
                action_dist=log.target_probs[:, :, None],
                estimated_rewards_by_reg_model=predicted[:, :, None],
                # Some of its estimators have no default for the position in a list of one.
                position=np.zeros(log.arm.size, dtype=np.int64),
            )
            differences.append(abs(ours(_inputs(log, predicted)).value - float(value)))
        yield _summary("obp", name, differences, allowed=SAME_INPUTS)


def _obp_cases() -> Iterator[tuple[BanditLog, PerArm]]:
    """Yield obp's own synthetic logs with predictions of its regression: deterministic and stochastic targets."""
    from obp.dataset import SyntheticBanditDataset, linear_reward_function, logistic_reward_function
    from obp.ope import RegressionModel
    from sklearn.linear_model import LogisticRegression, Ridge

    for kind, reward, base, betas in (
        ("binary", logistic_reward_function, LogisticRegression(max_iter=1000), (1.0, -3.0)),
        ("continuous", linear_reward_function, Ridge(), (0.2, -0.3)),
    ):
        for beta in betas:
            dataset = SyntheticBanditDataset(
                n_actions=6, dim_context=5, reward_type=kind, reward_function=reward, beta=beta, random_state=7
            )
            feedback = dataset.obtain_batch_bandit_feedback(n_rounds=2_000)
            predicted = RegressionModel(n_actions=6, base_model=base).fit_predict(
                context=feedback["context"],
                action=feedback["action"],
                reward=feedback["reward"],
                n_folds=3,
                random_state=7,
            )[:, :, 0]
            expected = feedback["expected_reward"]
            greedy = np.eye(6)[(expected + 0.5 * np.sin(9 * expected)).argmax(axis=1)]
            soft = np.exp(2 * expected)
            for target_probs in (greedy, soft / soft.sum(axis=1, keepdims=True)):
                log = BanditLog(
                    context=feedback["context"],
                    arm=feedback["action"].astype(np.int64),
                    outcome=feedback["reward"].astype(np.float64),
                    propensities=feedback["pi_b"][:, :, 0],
                    target_probs=target_probs,
                    truth=np.nan,
                )
                yield log, predicted


def _with_vw_estimators() -> Iterator[Comparison]:
    from estimators.bandits import gaussian
    from estimators.bandits import ips as vw_ips
    from estimators.bandits import snips as vw_snips

    differences: dict[str, list[float]] = {"ips": [], "snips": [], "ips, 95% normal interval": []}
    for log, predicted in _obp_cases():
        theirs = (vw_ips.Estimator(), vw_snips.Estimator(), gaussian.Interval())
        of_logged_arm = log.target_probs[np.arange(log.arm.size), log.arm]
        for p_log, r, p_pred in zip(log.propensity, log.outcome, of_logged_arm, strict=True):
            for each in theirs:
                each.add_example(p_log, r, p_pred)
        inputs = _without(_inputs(log, predicted), "predicted")
        ours = ips(**inputs)
        differences["ips"].append(abs(ours.value - theirs[0].get()))
        differences["snips"].append(abs(snips(**inputs).value - theirs[1].get()))
        gaps = np.subtract(ours.interval(0.95), theirs[2].get(0.05))
        differences["ips, 95% normal interval"] += [float(gap) for gap in abs(gaps)]
    for name, found in differences.items():
        yield _summary("vw-estimators", name, found, allowed=SAME_INPUTS)


@dataclass(frozen=True, kw_only=True)
class _Causal:
    """A log without propensities, with folds."""

    context: NDArray[np.float64]
    arm: NDArray[np.int64]
    outcome: NDArray[np.float64]
    fold: NDArray[np.int64]
    n_arms: int

    @classmethod
    def draw(cls, *, n_arms: int, n_rounds: int = 3_000, seed: int = 0) -> _Causal:
        rng = np.random.default_rng(seed)
        context = rng.standard_normal((n_rounds, 5))
        leaning = np.exp(0.7 * context[:, :1] * np.linspace(-1, 1, n_arms))
        cumulated = (leaning / leaning.sum(axis=1, keepdims=True)).cumsum(axis=1)
        arm = (rng.random((n_rounds, 1)) > cumulated[:, :-1]).sum(axis=1)
        slopes = rng.standard_normal((5, n_arms))
        outcome = (
            (context @ slopes)[np.arange(n_rounds), arm] + np.sin(3 * context[:, 0]) + rng.standard_normal(n_rounds)
        )
        return cls(context=context, arm=arm, outcome=outcome, fold=rng.permutation(n_rounds) % N_FOLDS, n_arms=n_arms)

    @property
    def splits(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Training and held-out rounds of every fold."""
        return [(np.flatnonzero(self.fold != k), np.flatnonzero(self.fold == k)) for k in range(N_FOLDS)]

    def scores(self, propensity: NDArray[np.float64]) -> PerArm:
        """Return Pointsman's pseudo-outcomes with these propensities of the logged arms."""
        predicted = cross_fit_outcomes(
            PerArmRidge(penalties=[RIDGE_PENALTY]),
            context=self.context,
            outcome=self.outcome,
            arm=self.arm,
            n_arms=self.n_arms,
            fold=self.fold,
        )
        return pseudo_outcomes(arm=self.arm, outcome=self.outcome, propensity=propensity, predicted=predicted)


def _with_doubleml() -> Iterator[Comparison]:
    import doubleml
    from doubleml.utils import PSProcessorConfig
    from sklearn.linear_model import LogisticRegression, Ridge

    log = _Causal.draw(n_arms=4)
    learners = {"ml_g": Ridge(alpha=RIDGE_PENALTY), "ml_m": LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)}
    unclipped = PSProcessorConfig(clipping_threshold=1e-9)
    # Its propensities are binary logits, arm against the rest.
    of_arm = np.empty((log.arm.size, log.n_arms))
    for train, held_out in log.splits:
        for t in range(log.n_arms):
            logit = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
            logit.fit(log.context[train], log.arm[train] == t)
            of_arm[held_out, t] = logit.predict_proba(log.context[held_out])[:, 1]
    scores = log.scores(of_arm[np.arange(log.arm.size), log.arm])
    apos = doubleml.DoubleMLAPOS(
        doubleml.DoubleMLData.from_arrays(log.context, log.outcome, log.arm.astype(float)),
        **learners,
        treatment_levels=[float(t) for t in range(log.n_arms)],
        n_folds=N_FOLDS,
        ps_processor_config=unclipped,
        draw_sample_splitting=False,
    )
    apos.set_sample_splitting([log.splits])
    apos.fit()
    elements = np.column_stack([np.ravel(model.psi_elements["psi_b"]) for model in apos.modellist])
    yield _summary("doubleml", "APOS, score of every round and arm", abs(scores - elements), allowed=SAME_FOLDS)
    ours = [_mean_of(column) for column in scores.T]
    yield _summary(
        "doubleml",
        "APOS, value and standard error of every arm",
        [*(abs(a.value - b) for a, b in zip(ours, apos.coef, strict=True)), *_error_gaps(ours, apos.se)],
        allowed=SAME_FOLDS,
    )
    contrasts = apos.causal_contrast(reference_levels=0.0)
    ours = [_mean_of(column) - _mean_of(scores[:, 0]) for column in scores.T[1:]]
    yield _summary(
        "doubleml",
        "contrasts to the first arm, with standard error",
        [*(abs(a.value - b) for a, b in zip(ours, contrasts.thetas, strict=True)), *_error_gaps(ours, contrasts.ses)],
        allowed=SAME_FOLDS,
    )
    yield _with_irm(learners, unclipped)


def _with_irm(learners: dict[str, Any], unclipped: Any) -> Comparison:
    import doubleml
    from sklearn.base import clone

    log = _Causal.draw(n_arms=2, seed=1)
    of_second = np.empty(log.arm.size)
    for train, held_out in log.splits:
        logit = clone(learners["ml_m"]).fit(log.context[train], log.arm[train])
        of_second[held_out] = logit.predict_proba(log.context[held_out])[:, 1]
    scores = log.scores(np.where(log.arm == 1, of_second, 1 - of_second))
    irm = doubleml.DoubleMLIRM(
        doubleml.DoubleMLData.from_arrays(log.context, log.outcome, log.arm.astype(float)),
        **learners,
        n_folds=N_FOLDS,
        ps_processor_config=unclipped,
        draw_sample_splitting=False,
    )
    irm.set_sample_splitting([log.splits])
    irm.fit()
    return _summary(
        "doubleml",
        "IRM, score of every round",
        abs(scores[:, 1] - scores[:, 0] - np.ravel(irm.psi_elements["psi_b"])),
        allowed=SAME_FOLDS,
    )


def _with_econml() -> Iterator[Comparison]:
    from econml.dr import LinearDRLearner
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.linear_model import LogisticRegression, Ridge

    class RidgePerArm(RegressorMixin, BaseEstimator):  # type: ignore[misc]
        """Its regression gets the context and every arm but the first as dummies: a ridge for each of them."""

        def __init__(self, n_features: int = 5) -> None:
            self.n_features = n_features

        def _split(self, X: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
            context, dummies = X[:, : self.n_features], X[:, self.n_features :]
            return context, (dummies @ np.arange(1, dummies.shape[1] + 1)).astype(np.int64)

        def fit(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> RidgePerArm:
            context, arm = self._split(X)
            self.lines_ = {t: Ridge(alpha=RIDGE_PENALTY).fit(context[arm == t], y[arm == t]) for t in np.unique(arm)}
            return self

        def predict(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
            context, arm = self._split(X)
            predicted = np.empty(len(X))
            for t in np.unique(arm):
                predicted[arm == t] = self.lines_[t].predict(context[arm == t])
            return predicted

    log = _Causal.draw(n_arms=4, seed=2)
    logit = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    of_arm = np.empty((log.arm.size, log.n_arms))
    for train, held_out in log.splits:
        of_arm[held_out] = logit.fit(log.context[train], log.arm[train]).predict_proba(log.context[held_out])
    scores = log.scores(of_arm[np.arange(log.arm.size), log.arm])
    learner = LinearDRLearner(
        model_propensity=LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000),
        model_regression=RidgePerArm(),
        min_propensity=1e-9,
        cv=log.splits,
    )
    learner.fit(log.outcome, log.arm, X=log.context, cache_values=True)
    # Its final stage is least squares with an intercept, whose fitted values average what they were fitted to.
    effects = [float(learner.ate(log.context, T0=0, T1=t)) for t in range(1, log.n_arms)]
    ours = [_mean_of(column) - _mean_of(scores[:, 0]) for column in scores.T[1:]]
    yield _summary(
        "econml",
        "DRLearner, average effects against the first arm",
        [abs(a.value - b) for a, b in zip(ours, effects, strict=True)],
        allowed=SAME_FOLDS,
    )
    elements = np.reshape(learner._cached_values.nuisances[0], scores.shape)
    yield _summary("econml", "DRLearner, score of every round and arm", abs(scores - elements), allowed=SAME_FOLDS)


def _mean_of(score: NDArray[np.float64]) -> Estimate:
    return Estimate(name="dr", terms=(Ratio(score, np.ones(score.size)),))


def _error_gaps(ours: list[Estimate], theirs: NDArray[np.float64]) -> list[float]:
    """Return differences of standard errors; theirs divides by n where ours divides by n - 1."""
    return [
        abs(a.standard_error * np.sqrt(1 - 1 / a.n_rounds) - b) for a, b in zip(ours, np.ravel(theirs), strict=True)
    ]


def _inputs(log: BanditLog, predicted: PerArm) -> dict[str, Any]:
    return {
        "arm": log.arm,
        "outcome": log.outcome,
        "propensity": log.propensity,
        "predicted": predicted,
        "target_probs": log.target_probs,
    }


def _without(inputs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in names}


def _summary(peer: str, quantity: str, differences: Any, *, allowed: float) -> Comparison:
    found = np.ravel(np.asarray(differences, dtype=np.float64))
    return Comparison(
        peer=peer, quantity=quantity, n_compared=found.size, difference=float(found.max()), allowed=allowed
    )


if __name__ == "__main__":
    sys.exit(main())
