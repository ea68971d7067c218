"""Overlap: errors where a log is silent, warnings where it whispers, nothing where it speaks."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic

from pointsman.errors import OverlapError, OverlapWarning, SmallSampleWarning
from pointsman.ope.diagnostics import check_sample_size, diagnose, effective_sample_size
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.ope.estimators import ips


def test_effective_sample_size_counts_the_rounds_that_matter():
    """N for equal weights, one for a single weight, zero for none."""
    assert effective_sample_size(np.full(50, 3.0)) == pytest.approx(50)
    assert effective_sample_size(np.eye(50)[0]) == 1
    assert effective_sample_size(np.zeros(50)) == 0


def test_a_good_log_is_reported_without_a_warning(seed, rng):
    """Weights average one within noise; the figures are those of the arrays."""
    world = synthetic.FiniteWorld.random(n_states=5, n_arms=3, least_propensity=0.1, rng=rng)
    log = world.draw(2_000, rng=rng)
    target = rng.dirichlet(np.ones(3), 2_000)

    found = diagnose(arm=log.arm, propensity=log.propensity, target_probs=target)

    weight = target[np.arange(2_000), log.arm] / log.propensity
    assert found.n_rounds == 2_000
    assert found.effective_sample_size == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert found.smallest_propensity == log.propensity.min()
    assert found.largest_weight == weight.max()
    assert found.mean_weight == pytest.approx(weight.mean())
    assert found.unsupported_share == 0


def test_an_arm_that_never_served_is_an_error_that_names_it():
    """And says what to do."""
    with pytest.raises(OverlapError, match=r"large \(40\.0%\).*log with exploration"):
        diagnose(
            arm=np.zeros(10, dtype=int),
            propensity=np.full(10, 0.5),
            target_probs=np.tile([0.6, 0.4], (10, 1)),
            arm_names=["small", "large"],
        )


def test_less_than_one_decision_on_a_silent_arm_is_let_pass():
    """A softmax's tail is not worth an error."""
    found = diagnose(
        arm=np.zeros(10, dtype=int), propensity=np.full(10, 1.0), target_probs=np.tile([0.99, 0.01], (10, 1))
    )

    assert found.unsupported_share == pytest.approx(0.01)


def test_a_deterministic_log_of_another_policy_is_an_error():
    """It holds nothing on what the target would have done."""
    arm = np.arange(10) % 2

    with pytest.raises(OverlapError, match="deterministic"):
        diagnose(arm=arm, propensity=np.ones(10), target_probs=np.full((10, 2), 0.5))
    found = diagnose(arm=arm, propensity=np.ones(10), target_probs=np.eye(2)[arm])
    assert found.mean_weight == 1


def test_sure_choices_among_random_ones_draw_a_warning():
    """Part of the target's decisions has no support."""
    propensity = np.where(np.arange(100) < 20, 1.0, 0.5)

    with pytest.warns(OverlapWarning, match=r"in 10\.0%"):
        found = diagnose(arm=np.arange(100) % 2, propensity=propensity, target_probs=np.full((100, 2), 0.5))

    assert found.unsupported_share == pytest.approx(0.1)


def test_wrong_propensities_draw_a_warning(rng):
    """Weights that do not average one give them away."""
    with pytest.warns(OverlapWarning, match="average 1\\.[789]"):
        diagnose(
            arm=rng.choice(2, 1_000, p=[0.9, 0.1]),
            propensity=np.full(1_000, 0.5),
            target_probs=np.tile([1.0, 0.0], (1_000, 1)),
        )


@pytest.mark.parametrize(("n_heavy", "fires"), [(2, True), (500, False)])
def test_a_few_dominant_rounds_are_too_small_a_sample(rng, n_heavy, fires, recwarn):
    """Cochran's rule, n > 25 skewness^2: a share p of equal heavy rounds has skewness (1 - 2p) / sqrt(p (1 - p))."""
    value = np.zeros(1_000)
    value[:n_heavy] = 1.0

    check_sample_size(Estimate(name="ips", terms=(Ratio(value, np.ones(1_000)),)))

    assert [w.category for w in recwarn] == ([SmallSampleWarning] if fires else [])


def test_a_certain_value_needs_no_sample(recwarn):
    """Equal outcomes leave only rounding errors, which have no shape."""
    check_sample_size(
        ips(
            arm=np.zeros(30, dtype=int),
            outcome=np.full(30, 0.1),
            propensity=np.ones(30),
            target_probs=np.ones((30, 1)),
        )
    )

    assert not recwarn.list
