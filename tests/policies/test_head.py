"""Linear heads: what L-BFGS finds, and how its penalty is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.policies.clone import Clone
from pointsman.policies.head import Head, fit_linear, fit_linear_head, hold_out
from pointsman.policies.objectives import CrossEntropy


def labelled(rng: np.random.Generator, n_rounds: int = 800) -> tuple[np.ndarray, CrossEntropy]:
    """Return contexts of uneven spread, and the cross-entropy to labels that depend on them."""
    context = rng.standard_normal((n_rounds, 5)) * [3, 1, 0.3, 0.1, 0.03] + 10
    logits = (context - 10) @ rng.standard_normal((5, 3))
    label = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return context, CrossEntropy(label=label, eligible=np.ones((n_rounds, 3), dtype=bool))


def test_it_is_scikit_learns_multinomial_logit(rng: np.random.Generator, seed: int) -> None:
    """The penalised cross-entropy it reaches is no more than the stopping rule above scikit-learn's."""
    from sklearn.linear_model import LogisticRegression

    context, objective = labelled(rng)
    spread = np.sqrt(context.var(axis=0).mean())
    penalty = 1e-3
    # scikit-learn minimises C sum_i loss_i + |w|^2 / 2, in the units of the context as it comes.
    reference = LogisticRegression(C=1 / (penalty * 5 * spread**2 * len(context)), tol=1e-10, max_iter=10_000)
    reference.fit(context - context.mean(axis=0), objective.label)

    def penalised(slopes: np.ndarray, logits: np.ndarray) -> float:
        return objective.loss(logits)[0] + penalty / 2 * 5 * spread**2 * float((slopes**2).sum())

    held_out = np.zeros(len(context), dtype=bool)
    head, _ = fit_linear_head(context, [objective], held_out=held_out, penalties=[penalty])
    found = penalised(head.layers[0][0], head.outputs(context))
    best = penalised(reference.coef_, reference.decision_function(context - context.mean(axis=0)))
    # Steps that gain less than 1e-5 of the loss end the search; the sum of what follows is a small multiple of that.
    assert best - 1e-9 <= found <= best * (1 + 1e-4)


def test_the_unit_of_the_context_does_not_matter(rng: np.random.Generator) -> None:
    """A context a thousand times as large gives the same logits, up to where the search stops."""
    context, objective = labelled(rng)
    held_out = np.arange(len(context)) % 5 == 0
    heads = [
        fit_linear_head(scale * context, [objective], held_out=held_out, penalties=[1e-2, 1e-4])[0].outputs(
            scale * context
        )
        for scale in (1.0, 1000.0)
    ]
    np.testing.assert_allclose(heads[0], heads[1], atol=1e-3)


def test_noise_takes_the_heaviest_penalty_and_signal_a_lighter(rng: np.random.Generator) -> None:
    """Labels that have nothing to do with 200 features are best left alone: fitting them costs 200 * 2 / (2 * 640)."""
    context, objective = labelled(rng)
    noise = CrossEntropy(label=rng.integers(0, 3, len(context)), eligible=objective.eligible)
    held_out = np.arange(len(context)) % 5 == 0
    penalties = (1e2, 1e-4)
    foreign = rng.standard_normal((len(context), 200))
    assert fit_linear_head(foreign, [noise], held_out=held_out, penalties=penalties)[1] == 1e2
    assert fit_linear_head(context, [objective], held_out=held_out, penalties=penalties)[1] < 1e2


def test_a_start_at_the_minimum_stays_there(rng: np.random.Generator) -> None:
    """Going on from what was found moves the loss by less than the stopping rule."""
    context, objective = labelled(rng)
    standard = (context - context.mean(axis=0)) / context.std(axis=0)
    variance = np.ones(5)
    first = fit_linear(standard, objective, variance=variance, penalty=1e-3)
    second = fit_linear(standard, objective, variance=variance, penalty=1e-3, start=first)
    losses = [objective.loss(standard @ line[:, :-1].T + line[:, -1])[0] for line in (first, second)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_first_fold_is_held_out() -> None:
    """The first fold where there are several; a fifth, from the seed, where there is one; none of a handful."""
    np.testing.assert_array_equal(hold_out(np.array([2, 1, 1, 3]), seed=0), [False, True, True, False])
    assert hold_out(np.zeros(50, dtype=np.int64), seed=0).sum() == 10
    assert not hold_out(np.zeros(4, dtype=np.int64), seed=0).any()


def test_a_network_is_its_layers(rng: np.random.Generator) -> None:
    """Outputs are the layers' affine maps with rectifiers between, and columns are columns of all outputs."""
    layers = tuple((rng.standard_normal(shape), rng.standard_normal(shape[0])) for shape in ((7, 3), (4, 7)))
    context = rng.standard_normal((10, 3))
    head = Head.from_arrays(Head(layers=layers).arrays())
    by_hand = np.maximum(context @ layers[0][0].T + layers[0][1], 0) @ layers[1][0].T + layers[1][1]
    np.testing.assert_array_equal(head.outputs(context), by_hand)
    np.testing.assert_allclose(head.outputs(context, slice(1, 3)), by_hand[:, 1:3], rtol=1e-12)


@pytest.mark.parametrize("options", [{"penalties": ()}, {"penalties": (-1.0,)}, {"hidden": (0,)}])
def test_impossible_options_are_refused(options: dict[str, tuple[float, ...]]) -> None:
    """No penalties, a negative one, and a layer without units are refused when the policy is made."""
    with pytest.raises(InvalidParameterError, match="must hold"):
        Clone(**options)  # type: ignore[arg-type]
