"""The network form of the regret-minimising policies: trained by torch, served by numpy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import MissingDependencyError
from pointsman.policies.head import Head
from pointsman.policies.objectives import Objective
from pointsman.types import ArmIndex, Context, PerArm

LEARNING_RATE = 1e-3
"""Adam's step size: its authors' default."""

BATCH_ROUNDS = 256
"""Rounds a step."""

MAX_EPOCHS = 200
"""Passes over the rounds, at most."""

PATIENCE_EPOCHS = 10
"""Passes without a higher held-out value after which training stops."""


def fit_network(
    context: Context,
    objectives: Sequence[Objective],
    *,
    held_out: NDArray[np.bool_],
    hidden: Sequence[int],
    seed: int,
) -> Head:
    """Return a rectifier network with the outputs of all objectives side by side, minimising the mean of them by Adam.

    Training stops early on the held-out value, the mean over the objectives, and keeps the best pass. The last layer
    starts at zero and the others at He et al.'s scale. One thread and one seed: the same arguments give the same bits.

    Args:
        context: Features of each round.
        objectives: What to minimise.
        held_out: Rounds that decide when to stop; where there are none, all rounds are learned from for the full time.
        hidden: Widths of the hidden layers.
        seed: Seed of the first weights and of the batches.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    try:
        import torch
    except ImportError as missing:
        raise MissingDependencyError("hidden layers need torch: pip install 'pointsman[torch]'") from missing

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rng = np.random.default_rng(seed)
        centre = context.mean(axis=0, dtype=np.float64)
        spread = float(np.sqrt(context.var(axis=0, dtype=np.float64).mean())) or 1.0
        standard = torch.from_numpy(np.asarray((context - centre) / spread, dtype=np.float32))
        widths = (context.shape[1], *hidden, sum(objective.n_outputs for objective in objectives))
        layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        for n_in, n_out in pairwise(widths):
            last = len(layers) == len(hidden)
            weight = np.zeros((n_out, n_in)) if last else rng.standard_normal((n_out, n_in)) * np.sqrt(2 / n_in)
            layers.append((torch.tensor(weight, dtype=torch.float32), torch.zeros(n_out)))
        parameters = [parameter.requires_grad_() for layer in layers for parameter in layer]
        adam = torch.optim.Adam(parameters, lr=LEARNING_RATE)

        def forward(rounds: ArmIndex) -> torch.Tensor:
            values = standard[torch.from_numpy(rounds)]
            for weight, bias in layers[:-1]:
                values = torch.relu(values @ weight.T + bias)
            weight, bias = layers[-1]
            return values @ weight.T + bias

        learning, judging = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if not learning.size:
            learning, judging = judging, learning
        judges = [objective.take(judging) for objective in objectives]
        best_value, best_epoch, best = -np.inf, 0, [parameter.detach().clone() for parameter in parameters]
        for epoch in range(MAX_EPOCHS):
            order = rng.permutation(learning)
            for first in range(0, order.size, BATCH_ROUNDS):
                rounds = order[first : first + BATCH_ROUNDS]
                outputs = forward(rounds)
                gradient = _gradient(objectives, rounds, outputs.detach().numpy().astype(np.float64))
                adam.zero_grad()
                torch.autograd.backward([outputs], [torch.from_numpy(gradient.astype(np.float32))])
                adam.step()
            if judging.size:
                with torch.no_grad():
                    value = _value(judges, forward(judging).numpy().astype(np.float64))
                if value <= best_value and epoch - best_epoch >= PATIENCE_EPOCHS:
                    break
            else:
                value = float(epoch)
            if value > best_value:
                best_value, best_epoch = value, epoch
                best = [parameter.detach().clone() for parameter in parameters]
    finally:
        torch.set_num_threads(n_threads)
    weights = [parameter.numpy().astype(np.float64) for parameter in best]
    # The first layer takes the standardisation in, so that serving sees the context as it comes.
    weights[0] = weights[0] / spread
    weights[1] = weights[1] - weights[0] @ centre
    return Head(layers=tuple(zip(weights[0::2], weights[1::2], strict=True)))


def _blocks(objectives: Sequence[Objective]) -> list[slice]:
    ends = np.cumsum([objective.n_outputs for objective in objectives])
    return [slice(int(end) - objective.n_outputs, int(end)) for end, objective in zip(ends, objectives, strict=True)]


def _gradient(objectives: Sequence[Objective], rounds: ArmIndex, outputs: PerArm) -> PerArm:
    gradient = np.empty_like(outputs)
    for block, objective in zip(_blocks(objectives), objectives, strict=True):
        gradient[:, block] = objective.take(rounds).loss(outputs[:, block])[1] / len(objectives)
    return gradient


def _value(judges: Sequence[Objective], outputs: PerArm) -> float:
    blocks = zip(_blocks(judges), judges, strict=True)
    return float(np.mean([judge.value(outputs[:, block]) for block, judge in blocks]))
