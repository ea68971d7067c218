"""Regression with partial pooling over arms, its strength learned from the log by empirical Bayes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from pointsman.nuisance.batches import batches
from pointsman.nuisance.spectral import SpectralMap
from pointsman.types import ArmIndex, Arrays, Context, PerArm, PerRound, State

Link = Literal["identity", "logit"]

SHARED_POWER = 0.25
"""A shared slope's prior variance goes with its feature's variance to this power times two."""
SPECIFIC_POWER = 0.5
"""The same for an arm's own slopes: what sets one arm apart is taken to vary along the coarse directions."""
INTERCEPT_VARIANCE = 1.0
"""Prior variance of an arm's intercept, in units of the outcome's: wide, so that arm means are hardly shrunk. Shrunk
means pull the best arm towards the rest, and the router away from it."""
LOG_PRIOR_SD = 1.0
"""Standard deviation of the normal prior on the log of each variance: evidence moves a variance by a factor of ten with
ease in a large log. In one of 1,000 rounds, where evidence says little, a vaguer prior lets the arms' own part vanish,
and with it all routing."""
LOG_RANGE = 7.0
"""A log variance is sought within +-7 of its prior's centre: a factor of a thousand either way, beyond which
the precision matrix would be as good as singular."""
LARGEST_LOGIT = 8.0
"""Linear predictors are kept within +-8: beyond, a binary outcome's weight vanishes and Newton steps explode."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Variances, chosen by evidence.

    Attributes:
        shared: Variance over rounds of the part of the linear predictor that all arms share.
        graded: Variance over rounds of the part that goes with an arm's ability.
        specific: Variance over rounds of the part that is an arm's own.
        noise: Residual variance (identity link) or overdispersion (logit link).
    """

    shared: float
    graded: float
    specific: float
    noise: float

    def log(self) -> NDArray[np.float64]:
        """Return the logarithms, in order."""
        return np.log([self.shared, self.graded, self.specific, self.noise])


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """Weighted second moments of one arm's rounds: all that the posterior needs, and they add up over shards."""

    shared: NDArray[np.float64]
    cross: NDArray[np.float64]
    specific: NDArray[np.float64]
    shared_outcome: NDArray[np.float64]
    specific_outcome: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Factors:
    """Cholesky factors of the posterior precision, arm blocks first and then what is left for the shared block."""

    log_evidence: float
    explained: float
    shared_prior: NDArray[np.float64]
    specific_prior: NDArray[np.float64]
    arm_factors: list[NDArray[np.float64]]
    arm_solutions: list[NDArray[np.float64]]
    shared_factor: NDArray[np.float64]
    shared_solution: NDArray[np.float64]


class PooledRegression:
    """Outcome model in which arms share most of what is learned of a prompt.

        g(E[y | x, t]) = c + u(x) . w + b_t + r_t v(x) . h + v(x) . w_t

        w ~ N(0, shared A),   h ~ N(0, graded B),   w_t ~ N(0, specific B),   b_t ~ N(0, wide)

    with g the identity or the logit, u fine features that all arms share, v coarse ones that set an arm apart, and r_t
    the arm's ability: b_t over arms, standardised, from the pass before. So v . h says where able arms pay more than
    weak ones, and is learned from all rounds. A and B are diagonal, a power of the features' variances, scaled so that
    `shared`, `graded` and `specific` are variances over rounds. These and the noise maximise the log evidence, plus a
    vague normal log prior on the log variances,

        log p(y) = (r' S^-1 r - y' y / s - log |S| - sum log prior variances - n log 2 pi s) / 2

    with S the posterior precision and r the weighted cross moments: closed form in each arm's second moments, so it
    never reads the rounds again. The logit link repeats this on the working response (penalised quasi-likelihood).
    S is block-arrow (arms meet only in the shared block): the cost is one factorisation an arm, linear in their number.

    Args:
        link: `identity`, or `logit` for outcomes in [0, 1].
        n_passes: Passes over the rounds, the first of which takes all arms for equally able.

    Attributes:
        hyperparameters_: The variances chosen.
        log_evidence_: Log evidence at these, of the last working response.
        base_: c; shared_coef_: (n_shared,) w; intercept_: (n_arms,) b_t.
        specific_coef_: (n_arms, n_specific) r_t h + w_t.

    References:
        MacKay (1992), Neural Computation 4(3): evidence; Breslow and Clayton (1993), JASA 88(421): penalised
        quasi-likelihood; Gelman and Hill (2007): partial pooling.
    """

    def __init__(self, *, link: Link = "identity", n_passes: int = 5) -> None:
        self.link = link
        self.n_passes = n_passes

    def fit(
        self,
        shared: NDArray[np.float32],
        specific: NDArray[np.float32],
        y: PerRound,
        *,
        arm: ArmIndex,
        n_arms: int,
        sample_weight: PerRound | None = None,
        shrink: float = 1.0,
    ) -> Self:
        """Learn from the rounds each arm served.

        Args:
            shared: u(x), (n_rounds, n_shared), centred.
            specific: v(x), (n_rounds, n_specific), centred.
            y: Outcome of the logged arm; in [0, 1] with the logit link; holds no NaN.
            arm: Logged arm.
            n_arms: Number of arms.
            sample_weight: Weight of each round; they are scaled to mean one.
            shrink: Factor on the standard deviation of the arms' own part, after the evidence has chosen it.
        """
        n_rounds = y.size
        weight = np.ones(n_rounds) if sample_weight is None else sample_weight * (n_rounds / sample_weight.sum())
        self._shared_prior = _prior(shared, power=SHARED_POWER)
        self._specific_prior = _prior(specific, power=SPECIFIC_POWER)
        self._rows = [np.flatnonzero(arm == t) for t in range(n_arms)]
        mean = (weight @ y + 0.5) / (n_rounds + 1)  # half a round of one and half of zero keep the logit finite
        if self.link == "logit":
            self.base_ = float(np.log(mean / (1 - mean)))
            self._unit, noise = 1 / (mean * (1 - mean)), 1.0
        else:
            self.base_ = float(weight @ y / n_rounds)
            self._unit = max(float(weight @ (y - self.base_) ** 2 / n_rounds), 1e-12)
            noise = 0.8 * self._unit
        start = Hyperparameters(
            shared=float(0.1 * self._unit),
            graded=float(0.05 * self._unit),
            specific=float(0.05 * self._unit),
            noise=float(noise),
        )
        chosen = start
        predictor = np.full(n_rounds, self.base_)
        ability = np.zeros(n_arms)
        for _ in range(self.n_passes):
            if self.link == "logit":
                expected = _expit(predictor)
                curvature = expected * (1 - expected)
                response = predictor + (y - expected) / curvature - self.base_
                working_weight = weight * curvature
            else:
                response, working_weight = y - self.base_, weight
            moments = self._moments(shared, specific, response, working_weight, ability)
            total = float(working_weight @ response**2)
            chosen = self._most_evident(moments, total, n_rounds, start=chosen, prior=start)
            factors = self._factorise(moments, total, n_rounds, chosen, shrink=shrink)
            self._solve(factors, ability)
            ability = self.intercept_ - self.intercept_.mean()
            ability /= max(float(ability.std()), 1e-9)
            if self.link == "logit":
                predictor = self._own_predictor(shared, specific)
        self.hyperparameters_ = chosen
        self.log_evidence_ = factors.log_evidence
        del self._rows
        return self

    def predict(self, shared: NDArray[np.float32], specific: NDArray[np.float32]) -> PerArm:
        """Return the expected outcome of every arm, (n_rounds, n_arms)."""
        predictor = self.predictor(shared, specific)
        return _expit(predictor) if self.link == "logit" else predictor

    def predictor(self, shared: NDArray[np.float32], specific: NDArray[np.float32]) -> PerArm:
        """Return g(E[y | x, t]) for every arm, (n_rounds, n_arms)."""
        common = self.base_ + shared @ self.shared_coef_
        return np.asarray(common[:, None] + self.intercept_ + specific @ self.specific_coef_.T)

    def state(self) -> tuple[State, Arrays]:
        """Return what prediction needs, with what was chosen."""
        values: State = {
            "link": self.link,
            "n_passes": self.n_passes,
            "base": self.base_,
            "log_evidence": self.log_evidence_,
            "hyperparameters": asdict(self.hyperparameters_),
        }
        arrays: Arrays = {
            "shared_coef": self.shared_coef_,
            "intercept": self.intercept_,
            "specific_coef": self.specific_coef_,
        }
        return values, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the regression that `state` described."""
        regression = cls(link=values["link"], n_passes=values["n_passes"])
        regression.base_, regression.log_evidence_ = float(values["base"]), float(values["log_evidence"])
        regression.hyperparameters_ = Hyperparameters(**values["hyperparameters"])
        regression.shared_coef_ = arrays["shared_coef"]
        regression.intercept_ = arrays["intercept"]
        regression.specific_coef_ = arrays["specific_coef"]
        return regression

    def _own_predictor(self, shared: NDArray[np.float32], specific: NDArray[np.float32]) -> PerRound:
        predictor: PerRound = self.base_ + shared @ self.shared_coef_
        for t, rows in enumerate(self._rows):
            predictor[rows] += self.intercept_[t] + specific[rows] @ self.specific_coef_[t]
        return np.asarray(np.clip(predictor, -LARGEST_LOGIT, LARGEST_LOGIT))

    def _moments(
        self,
        shared: NDArray[np.float32],
        specific: NDArray[np.float32],
        response: PerRound,
        weight: PerRound,
        ability: NDArray[np.float64],
    ) -> list[_Moments]:
        n_shared, n_specific = shared.shape[1], specific.shape[1]
        # Columns of the shared block [1, u, r_t v] and of the arm's own [1, v], in the rows [1, u, 1, v, y].
        own = np.arange(n_shared + 1, n_shared + n_specific + 2)
        common = np.concatenate([np.arange(n_shared + 1), own[1:]])
        result = []
        for t, rows_of_arm in enumerate(self._rows):
            width = n_shared + n_specific + 3
            gram = np.zeros((width, width))
            for rows in batches(rows_of_arm, n_features=width):
                one = np.ones((rows.size, 1))
                x = np.hstack([one, shared[rows], one, specific[rows], response[rows, None]])
                x *= np.sqrt(weight[rows])[:, None]
                gram += x.T @ x
            scale = np.concatenate([np.ones(n_shared + 1), np.full(n_specific, ability[t])])
            result.append(
                _Moments(
                    shared=gram[np.ix_(common, common)] * np.outer(scale, scale),
                    cross=gram[np.ix_(own, common)] * scale,
                    specific=gram[np.ix_(own, own)],
                    shared_outcome=gram[common, -1] * scale,
                    specific_outcome=gram[own, -1],
                )
            )
        return result

    def _most_evident(
        self, moments: list[_Moments], total: float, n_rounds: int, *, start: Hyperparameters, prior: Hyperparameters
    ) -> Hyperparameters:
        from scipy.optimize import minimize
        from threadpoolctl import threadpool_limits

        center = prior.log()

        def loss(log: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            variances = _from_log(log)
            factors = self._factorise(moments, total, n_rounds, variances)
            gradient = self._evidence_gradient(factors, total, n_rounds, variances)
            from_center = (log - center) / LOG_PRIOR_SD**2
            value = (from_center @ (log - center)) / 2 - factors.log_evidence
            # In units of a thousand rounds' evidence the optimiser's tolerances mean the same for every log.
            return float(value) * 1000 / n_rounds, (from_center - gradient) * 1000 / n_rounds

        # The matrices are small: a second BLAS thread would cost more than it brings.
        with threadpool_limits(limits=1, user_api="blas"):
            best = minimize(
                loss,
                start.log(),
                jac=True,
                method="L-BFGS-B",
                bounds=[(middle - LOG_RANGE, middle + LOG_RANGE) for middle in center],
                options={"ftol": 1e-7, "gtol": 1e-3},
            )
        return _from_log(best.x)

    def _evidence_gradient(
        self, factors: _Factors, total: float, n_rounds: int, variances: Hyperparameters
    ) -> NDArray[np.float64]:
        """Return the gradient of the log evidence in the log variances.

        For a group of d coefficients with prior variances s p_j it is (sum_j (m_j^2 + V_jj) / (s p_j) - d) / 2, with m
        and V the posterior mean and variances; for the noise, (residual sum of squares / s + trace(V G) / s - n) / 2.
        """
        from scipy.linalg import solve_triangular

        shared, specific = self._posterior_mean(factors)
        inverse = solve_triangular(factors.shared_factor, np.eye(shared.size), lower=True, check_finite=False)
        fit = shared**2 + (inverse**2).sum(axis=0)
        own_fit = np.zeros(specific.shape[1])
        projected = 0.0
        for factor, solution, mean in zip(factors.arm_factors, factors.arm_solutions, specific, strict=True):
            own = solve_triangular(factor, np.eye(mean.size), lower=True, check_finite=False)
            through = own.T @ (solution[:, :-1] @ inverse.T)
            variance = (own**2).sum(axis=0) + (through**2).sum(axis=1)
            own_fit += mean**2 + variance
            projected += float((variance / factors.specific_prior).sum())
        relative = fit / factors.shared_prior
        relative_own = own_fit / factors.specific_prior
        cut = 1 + self._shared_prior.size
        n_arms = len(factors.arm_factors)
        trace = shared.size + specific.size - float(((inverse**2).sum(axis=0) / factors.shared_prior).sum()) - projected
        penalty = float((shared**2 / factors.shared_prior).sum() + ((specific**2) / factors.specific_prior).sum())
        residual = total / variances.noise - 2 * factors.explained + (factors.explained - penalty)
        return (
            np.array(
                [
                    relative[1:cut].sum() - (cut - 1),
                    relative[cut:].sum() - (shared.size - cut),
                    relative_own[1:].sum() - n_arms * (specific.shape[1] - 1),
                    residual + trace - n_rounds,
                ]
            )
            / 2
        )

    def _factorise(
        self,
        moments: list[_Moments],
        total: float,
        n_rounds: int,
        variances: Hyperparameters,
        *,
        shrink: float = 1.0,
    ) -> _Factors:
        from scipy.linalg import cholesky, solve_triangular

        # c is all but known; a variance of a quarter of the outcome's unit keeps its prior proper.
        shared_prior = np.concatenate(
            [
                [0.25 * self._unit],
                variances.shared * self._shared_prior,
                variances.graded * self._specific_prior,
            ]
        )
        specific_prior = np.append(
            INTERCEPT_VARIANCE * self._unit, variances.specific * shrink**2 * self._specific_prior
        )
        noise = variances.noise
        precision = np.diag(1 / shared_prior)
        cross = np.zeros(len(shared_prior))
        log_determinant = float(np.log(shared_prior).sum() + len(moments) * np.log(specific_prior).sum())
        explained = 0.0
        arm_factors, arm_solutions = [], []
        for arm in moments:
            factor = cholesky(arm.specific / noise + np.diag(1 / specific_prior), lower=True, check_finite=False)
            solution = solve_triangular(
                factor,
                np.column_stack([arm.cross, arm.specific_outcome]) / noise,
                lower=True,
                check_finite=False,
            )
            precision += arm.shared / noise - solution[:, :-1].T @ solution[:, :-1]
            cross += arm.shared_outcome / noise - solution[:, :-1].T @ solution[:, -1]
            log_determinant += 2 * float(np.log(np.diag(factor)).sum())
            explained += float(solution[:, -1] @ solution[:, -1])
            arm_factors.append(factor)
            arm_solutions.append(solution)
        shared_factor = cholesky(precision, lower=True, check_finite=False)
        shared_solution = solve_triangular(shared_factor, cross, lower=True, check_finite=False)
        log_determinant += 2 * float(np.log(np.diag(shared_factor)).sum())
        explained += float(shared_solution @ shared_solution)
        return _Factors(
            log_evidence=(explained - total / noise - log_determinant - n_rounds * float(np.log(2 * np.pi * noise)))
            / 2,
            explained=explained,
            shared_prior=shared_prior,
            specific_prior=specific_prior,
            arm_factors=arm_factors,
            arm_solutions=arm_solutions,
            shared_factor=shared_factor,
            shared_solution=shared_solution,
        )

    def _posterior_mean(self, factors: _Factors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        from scipy.linalg import solve_triangular

        shared = solve_triangular(factors.shared_factor, factors.shared_solution, lower=True, trans=1)
        specific = [
            solve_triangular(factor, solution[:, -1] - solution[:, :-1] @ shared, lower=True, trans=1)
            for factor, solution in zip(factors.arm_factors, factors.arm_solutions, strict=True)
        ]
        return shared, np.stack(specific)

    def _solve(self, factors: _Factors, ability: NDArray[np.float64]) -> None:
        shared, specific = self._posterior_mean(factors)
        n_shared = self._shared_prior.size
        self.shared_coef_ = shared[1 : n_shared + 1]
        # The shared constant belongs to no arm, so it is folded into every intercept.
        self.intercept_ = specific[:, 0] + shared[0]
        self.specific_coef_ = specific[:, 1:] + np.outer(ability, shared[n_shared + 1 :])


class PooledOutcomeModel(BaseEstimator):  # type: ignore[misc]
    """`PooledRegression` on `SpectralMap` features of the context: partial pooling as an outcome model of its own.

    Args:
        link: `identity`, or `logit` for outcomes in [0, 1].
        specific: Features of the arms' own part: `linear` or `smooth`.
        seed: Draws the landmarks of the kernel features.

    Attributes:
        map_: The fitted features.
        regression_: The fitted regression.
    """

    def __init__(
        self, *, link: Link = "identity", specific: Literal["linear", "smooth"] = "linear", seed: int = 0
    ) -> None:
        self.link = link
        self.specific = specific
        self.seed = seed

    def fit(
        self, X: Context, y: PerRound, *, arm: ArmIndex, n_arms: int, sample_weight: PerRound | None = None
    ) -> Self:
        """Learn mu_t(x) = E[y | x, t] from the rounds in which arm t served. y holds no NaN."""
        self.map_ = SpectralMap(seed=self.seed).fit(X)
        basis = self.map_.transform(X)
        self.regression_ = PooledRegression(link=self.link).fit(
            basis.shared, getattr(basis, self.specific), y, arm=arm, n_arms=n_arms, sample_weight=sample_weight
        )
        return self

    def predict(self, X: Context) -> PerArm:
        """Return mu_t(x) for every arm, (n_rounds, n_arms), in the unit of y."""
        basis = self.map_.transform(X)
        return self.regression_.predict(basis.shared, getattr(basis, self.specific))


def _prior(features: NDArray[np.float32], *, power: float) -> NDArray[np.float64]:
    """Return prior variances of the slopes, scaled so that the features times such slopes have variance one."""
    variance = features.var(axis=0, dtype=np.float64)
    variance = np.maximum(variance, 1e-12 * max(float(variance.max()), 1e-300))
    raised = variance ** (2 * power)
    return np.asarray(raised / max(float(raised @ variance), 1e-300))


def _from_log(log: NDArray[np.float64]) -> Hyperparameters:
    shared, graded, specific, noise = (float(variance) for variance in np.exp(log))
    return Hyperparameters(shared=shared, graded=graded, specific=specific, noise=noise)


def _expit(predictor: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(predictor, -LARGEST_LOGIT, LARGEST_LOGIT))))
