"""Logits of every arm from a prompt and a preference, their gradient, and Adam."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import MissingDependencyError
from pointsman.types import Arrays, Context, PerArm, PerRound

PREFERENCE_WIDTHS = (64, 32)
"""Of phi, which the paper leaves open."""
HIDDEN_WIDTH = 256
"""Of the layer that sees prompt and preference, which the paper leaves open."""
ADAM_DECAYS = (0.9, 0.999)
"""Of the gradient's first and second moment: its authors' defaults."""
ADAM_FLOOR = 1e-8
"""Added to the root of the second moment: its authors' default."""


class Network(ABC):
    """Logits of a context and a cost weight; zero for every arm to begin with, so that all are equally likely.

    Attributes:
        parameters: Arrays by name.
        of_arms: Names of those whose first axis is arms.
    """

    of_arms: ClassVar[tuple[str, ...]]

    parameters: Arrays

    @abstractmethod
    def logits(self, context: Context, cost_weight: PerRound) -> PerArm:
        """Return the logit of every arm."""

    @abstractmethod
    def gradient(self, context: Context, cost_weight: PerRound, of: Callable[[PerArm], PerArm]) -> Arrays:
        """Return the gradient in every parameter of a loss, given its gradient in the logits as a function of them."""


class Bilinear(Network):
    """z_t = [1, h] W_t [w_q, w_c]: linear in the prompt, and in the preference.

    A reward that is linear in the prompt is linear in the preference, too: the softmax of any multiple of it is among
    these policies.
    """

    of_arms = ("slopes",)

    def __init__(self, *, n_arms: int, n_features: int) -> None:
        self.parameters = {"slopes": np.zeros((n_arms, 2, n_features + 1))}

    def logits(self, context: Context, cost_weight: PerRound) -> PerArm:
        """Return the logit of every arm."""
        slopes = self.parameters["slopes"]
        flat = _crossed(context, cost_weight) @ slopes.reshape(slopes.shape[0], -1).T
        return np.asarray(flat, dtype=np.float64)

    def gradient(self, context: Context, cost_weight: PerRound, of: Callable[[PerArm], PerArm]) -> Arrays:
        """Return the gradient in the slopes."""
        flat = of(self.logits(context, cost_weight)).T @ _crossed(context, cost_weight)
        return {"slopes": flat.reshape(self.parameters["slopes"].shape)}


class Perceptron(Network):
    """The paper's form: z = V relu(U [h; phi(w)] + c) + b, phi a perceptron of its own; rectifiers throughout.

    torch gives the gradient; numpy serves; both in single precision. Hidden layers start at He et al.'s scale.

    Args:
        n_arms: Outputs.
        n_features: Of the context.
        seed: Of the first weights.

    Raises:
        MissingDependencyError: torch is not installed, when a gradient is asked for.
    """

    of_arms = ("output_weight", "output_bias")

    def __init__(self, *, n_arms: int, n_features: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        first, second = PREFERENCE_WIDTHS

        def he(n_out: int, n_in: int, *, n_summed: int) -> NDArray[np.float64]:
            return np.asarray(rng.standard_normal((n_out, n_in)) * np.sqrt(2 / n_summed))

        parameters = {
            "preference_weight_0": he(first, 2, n_summed=2),
            "preference_bias_0": np.zeros(first),
            "preference_weight_1": he(second, first, n_summed=first),
            "preference_bias_1": np.zeros(second),
            "prompt_weight": he(HIDDEN_WIDTH, n_features, n_summed=n_features + second),
            "mixing_weight": he(HIDDEN_WIDTH, second, n_summed=n_features + second),
            "hidden_bias": np.zeros(HIDDEN_WIDTH),
            "output_weight": np.zeros((n_arms, HIDDEN_WIDTH)),
            "output_bias": np.zeros(n_arms),
        }
        self.parameters = {name: array.astype(np.float32) for name, array in parameters.items()}

    def logits(self, context: Context, cost_weight: PerRound) -> PerArm:
        """Return the logit of every arm."""
        return np.asarray(_forward(self.parameters, *self._inputs(context, cost_weight)), dtype=np.float64)

    def gradient(self, context: Context, cost_weight: PerRound, of: Callable[[PerArm], PerArm]) -> Arrays:
        """Return the gradient in every weight and bias, by torch, on one thread: the same bits every time."""
        torch = _torch()
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            inner = {name: torch.from_numpy(array).requires_grad_() for name, array in self.parameters.items()}
            logits = _forward(inner, *(torch.from_numpy(each) for each in self._inputs(context, cost_weight)))
            of_logits = of(logits.detach().numpy().astype(np.float64))
            torch.autograd.backward([logits], [torch.from_numpy(of_logits).to(logits.dtype)])
            return {name: tensor.grad.numpy() for name, tensor in inner.items()}
        finally:
            torch.set_num_threads(n_threads)

    def _inputs(self, context: Context, cost_weight: PerRound) -> tuple[NDArray[Any], NDArray[Any]]:
        kind = self.parameters["hidden_bias"].dtype
        return np.asarray(context, dtype=kind), _preference(cost_weight).astype(kind)


class Adam:
    """Adam, on arrays by name.

    Args:
        parameters: The arrays that `step` changes.

    References:
        Kingma and Ba (2015), ICLR.
    """

    def __init__(self, parameters: Arrays) -> None:
        self.n_steps = 0
        self.mean = {name: np.zeros_like(array) for name, array in parameters.items()}
        self.square = {name: np.zeros_like(array) for name, array in parameters.items()}

    def step(self, parameters: Arrays, gradient: Arrays, *, learning_rate: float) -> None:
        """Move the parameters, in place, against the gradient."""
        self.n_steps += 1
        first, second = ADAM_DECAYS
        root = math.sqrt(1 - second**self.n_steps)
        rate = learning_rate * root / (1 - first**self.n_steps)
        for name, slope in gradient.items():
            mean, square = self.mean[name], self.square[name]
            mean += (1 - first) * (slope - mean)
            square += (1 - second) * (slope**2 - square)
            parameters[name] -= rate * mean / (np.sqrt(square) + root * ADAM_FLOOR)


def _preference(cost_weight: PerRound) -> NDArray[np.float64]:
    """Return (w_q, w_c) of each round."""
    return np.column_stack([1 - cost_weight, cost_weight])


def _crossed(context: Context, cost_weight: PerRound) -> NDArray[np.float64]:
    """Return [w_q, w_c] x [1, h], flat: (n_rounds, 2 (n_features + 1))."""
    affine = np.column_stack([np.ones(len(context)), context])
    return np.asarray((_preference(cost_weight)[:, :, None] * affine[:, None, :]).reshape(len(context), -1))


def _forward(parameters: Mapping[str, Any], context: Any, preference: Any) -> Any:
    """Return the logits; of arrays or of tensors, whose methods have the same names."""
    p = parameters
    phi = (preference @ p["preference_weight_0"].T + p["preference_bias_0"]).clip(min=0)
    phi = (phi @ p["preference_weight_1"].T + p["preference_bias_1"]).clip(min=0)
    hidden = (context @ p["prompt_weight"].T + phi @ p["mixing_weight"].T + p["hidden_bias"]).clip(min=0)
    return hidden @ p["output_weight"].T + p["output_bias"]


def _torch() -> Any:
    try:
        import torch
    except ImportError as missing:
        raise MissingDependencyError("form 'mlp' needs torch to learn: pip install 'pointsman[torch]'") from missing
    return torch
