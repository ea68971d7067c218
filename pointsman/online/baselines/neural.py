"""Neural-linear: a small network learns features of the prompt, and Bayesian regressions on them the arms."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.online.base import ArmPrior, OnlinePolicy, Vector
from pointsman.online.baselines.heads import NOISE, PRIOR_QUALITY, SLOPE_VARIANCE, ArmHeads
from pointsman.online.baselines.linear import check_ranges
from pointsman.online.draw import best_probabilities, explored
from pointsman.online.features import Components
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, Context, State, under

FIRST_TRAINING = 128
"""Answers before the network is first trained; until then its hidden units are random."""
COST_NOISE, COST_VARIANCE = 2.0, 1.0
"""Variance of a logarithm of cost about what the network expects, and prior variance of that: features are chiefly for
quality."""
N_STEPS = 40
"""Steps of L-BFGS a training, from where the last one ended."""


class NeuralLinear(OnlinePolicy):
    """Thompson sampling on Bayesian linear regressions of every arm, on the hidden units of a network.

    One hidden layer, tanh(z W + b), from the leading components z of the context; an output an arm and outcome, fitted
    to the answers that were seen (of one arm each) by L-BFGS from all answers remembered, and drawn towards its random
    first weights: hidden units of which nothing was learned stay as good as random ones. It is trained anew whenever
    the answers seen have grown by a share `growth`; the regressions (`ArmHeads`) are then computed anew on its
    hidden units, and between trainings they learn from each answer at once.

    Args:
        n_arms: Number of arms.
        n_features: Of the context.
        n_hidden: Hidden units.
        n_components: Principal components of the context that the network sees.
        exploration: Factor on the posterior standard deviation, >= 0; 1 is Thompson sampling.
        floor: Probability spread evenly over the eligible arms, in [0, 1).
        growth: Share by which the answers seen have grown when the network is trained anew, > 0.
        n_remembered: Answers kept for that, the latest.
        seed: Of the network's first weights.

    References:
        Riquelme, Tucker and Snoek (2018), ICLR: Deep Bayesian bandits showdown, "neural linear".
    """

    name = "neural-linear"

    def __init__(
        self,
        *,
        n_arms: int,
        n_features: int,
        n_hidden: int = 64,
        n_components: int = 32,
        exploration: float = 0.25,
        floor: float = 0.02,
        growth: float = 0.3,
        n_remembered: int = 20_000,
        seed: int = 0,
    ) -> None:
        check_ranges(
            floor=(floor, 0, 1),
            exploration=(exploration, 0, math.inf),
            growth=(growth, 0.01, math.inf),
            n_remembered=(n_remembered, FIRST_TRAINING, math.inf),
        )
        self.n_arms, self.n_features, self.seed = n_arms, n_features, seed
        self.exploration, self.floor, self.growth, self.n_remembered = exploration, floor, growth, n_remembered
        self.components = Components(n_features=n_features, n_components=n_components)
        rng = np.random.default_rng(seed)
        k = self.components.n_components
        self.weights = rng.normal(size=(k, n_hidden)) / math.sqrt(k)
        self.biases = rng.normal(size=n_hidden) / 2
        self._first = self.weights.copy(), self.biases.copy()
        self.outputs = np.zeros((n_hidden + 1, 2 * n_arms))
        self.heads = ArmHeads(n_arms=n_arms, n_columns=n_hidden)
        self.n_seen, self.n_trained = 0, 0
        self._remembered: deque[tuple[Vector, int, float, float, float]] = deque(maxlen=n_remembered)

    def probabilities(self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_]) -> Vector:
        """Return Thompson's probabilities, above the floor."""
        mean, variance = self.heads.utility(self._hidden(context), trade_off)
        probabilities = best_probabilities(mean, self.exploration * np.sqrt(variance), eligible)
        return explored(probabilities, eligible=eligible, floor=self.floor)

    def update(
        self,
        context: Vector,
        arm: int,
        *,
        quality: float = math.nan,
        cost_usd: float = math.nan,
        trade_off: TradeOff | None = None,
        weight: float = 1.0,
    ) -> None:
        """Learn quality and cost, whichever is known, whatever the trade-off was."""
        del trade_off
        cost_usd = self.heads.at_first_price(arm, cost_usd)
        if self.n_seen >= max(FIRST_TRAINING, (1 + self.growth) * self.n_trained):
            self._train()
        self.n_seen += 1
        self._remembered.append((np.asarray(context, dtype=np.float64), arm, quality, cost_usd, weight))
        self.heads.learn(self._hidden(context), arm, quality=quality, cost_usd=cost_usd, weight=weight)

    def add_arm(self, prior: ArmPrior | None = None) -> int:
        """Take in a new arm, with outputs and regressions of its own."""
        zeros = np.zeros((len(self.outputs), 1))
        quality, cost = np.split(self.outputs, 2, axis=1)
        self.outputs = np.concatenate([quality, zeros, cost, zeros], axis=1)
        self.n_arms += 1
        return self.heads.add_arm(prior)

    def set_price(self, arm: int, factor: float) -> None:
        """Take an arm's price to be so many times that at which its costs were learned: from the next request on."""
        self.heads.set_price(arm, factor)

    def _hidden(self, context: Vector) -> Vector:
        return np.asarray(np.tanh(self.components(context) @ self.weights + self.biases))

    def _train(self) -> None:
        context = np.array([each[0] for each in self._remembered])
        arm = np.array([each[1] for each in self._remembered])
        quality, cost_usd, weight = np.array([each[2:] for each in self._remembered]).T
        if not self.components.is_settled:
            self.components.learn(context)
        z = self.components(context)
        self._fit(z, arm, quality, cost_usd, weight)
        self.heads = self.heads.restarted()
        hidden = np.tanh(z @ self.weights + self.biases)
        self.heads.learn_many(hidden, arm, quality=quality, cost_usd=cost_usd, weight=weight)
        self.n_trained = self.n_seen

    def _fit(self, z: Context, arm: NDArray[np.int64], quality: Vector, cost_usd: Vector, weight: Vector) -> None:
        """Move weights, biases and outputs to a lower penalised squared error of the answers."""
        from scipy.optimize import minimize

        row = np.arange(len(z))
        known_quality, known_cost = ~np.isnan(quality), cost_usd > 0
        unit = self.heads.unit_usd[arm]
        relative = np.log(np.where(known_cost, cost_usd / unit, 1.0))
        residual_quality = np.where(known_quality, quality - PRIOR_QUALITY, 0.0)
        weight_quality = known_quality * weight / NOISE
        weight_cost = known_cost / COST_NOISE
        shapes = [self.weights.shape, self.biases.shape, self.outputs.shape]
        sizes = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        first_weights, first_biases = self._first
        penalty = self.biases.size / np.repeat([SLOPE_VARIANCE, COST_VARIANCE], self.n_arms)

        def loss(parameters: Vector) -> tuple[float, Vector]:
            weights, biases, outputs = (
                part.reshape(shape) for part, shape in zip(np.split(parameters, sizes), shapes, strict=True)
            )
            hidden = np.tanh(z @ weights + biases)
            predicted = hidden @ outputs[:-1] + outputs[-1]
            error_quality = predicted[row, arm] - residual_quality
            error_cost = predicted[row, self.n_arms + arm] - relative
            back = np.zeros_like(predicted)
            back[row, arm] = weight_quality * error_quality
            back[row, self.n_arms + arm] = weight_cost * error_cost
            through = (back @ outputs[:-1].T) * (1 - hidden**2)
            gradient = np.concatenate(
                [
                    (z.T @ through + weights - first_weights).ravel(),
                    through.sum(axis=0) + biases - first_biases,
                    (np.vstack([hidden.T @ back, back.sum(axis=0)]) + penalty * outputs).ravel(),
                ]
            )
            value = (weight_quality * error_quality**2).sum() + (weight_cost * error_cost**2).sum()
            value += ((weights - first_weights) ** 2).sum() + ((biases - first_biases) ** 2).sum()
            value += (penalty * outputs**2).sum()
            return float(value / 2), gradient

        start = np.concatenate([self.weights.ravel(), self.biases, self.outputs.ravel()])
        fitted = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": N_STEPS}).x
        self.weights, self.biases, self.outputs = (
            part.reshape(shape) for part, shape in zip(np.split(fitted, sizes), shapes, strict=True)
        )

    def state(self) -> tuple[State, Arrays]:
        """Return the settings and every array."""
        values: State = {
            "n_arms": self.n_arms,
            "n_features": self.n_features,
            "n_hidden": self.biases.size,
            "n_components": self.components.n_components,
            "exploration": self.exploration,
            "floor": self.floor,
            "growth": self.growth,
            "n_remembered": self.n_remembered,
            "seed": self.seed,
            "n_seen": self.n_seen,
            "n_trained": self.n_trained,
        }
        arrays: Arrays = {
            "weights": self.weights,
            "biases": self.biases,
            "outputs": self.outputs,
            "remembered_context": np.array([each[0] for each in self._remembered]).reshape(-1, self.n_features),
            "remembered_outcome": np.array([each[1:] for each in self._remembered], dtype=np.float64).reshape(-1, 4),
        }
        arrays |= {f"components.{key}": array for key, array in self.components.state().items()}
        arrays |= {f"heads.{key}": array for key, array in self.heads.state().items()}
        return values, arrays

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Return the policy that `state` described."""
        options: dict[str, Any] = {name: value for name, value in values.items() if name not in ("n_seen", "n_trained")}
        policy = cls(**options)
        policy.n_seen, policy.n_trained = values["n_seen"], values["n_trained"]
        policy.weights, policy.biases = arrays["weights"].copy(), arrays["biases"].copy()
        policy.outputs = arrays["outputs"].copy()
        policy.components = Components.from_state(under("components.", arrays))
        policy.heads = ArmHeads.from_state(under("heads.", arrays))
        policy._remembered.extend(
            (context, int(arm), float(quality), float(cost_usd), float(weight))
            for context, (arm, quality, cost_usd, weight) in zip(
                arrays["remembered_context"], arrays["remembered_outcome"], strict=True
            )
        )
        return policy
