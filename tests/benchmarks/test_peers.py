"""The comparison with peers: what runs without their environment, and their agreement where it is there."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
import synthetic

from benchmarks.peers import accuracy, speed, streaming
from benchmarks.peers.agreement import SAME_FOLDS, Comparison, section
from benchmarks.peers.install import PYTHON, ROOT
from benchmarks.peers.logs import LOGGERS, SHARE_LEARNED, bandit_from_classes, large_log, policies
from pointsman.ope.estimators import dr, ips, snips
from pointsman.ope.intervals import joint_intervals
from pointsman.scores import pseudo_outcomes


def classes(rng, *, n_rows=600, n_arms=4):
    """Labelled rows whose class shifts the features."""
    label = np.arange(n_rows) % n_arms
    centers = rng.normal(size=(n_arms, 6))
    return centers[label] + rng.normal(size=(n_rows, 6)), label


@pytest.mark.parametrize("logger", LOGGERS)
def test_classes_become_rounds_of_known_propensities_and_truth(rng, logger):
    """Outcomes are whether the arm is the class, propensities those of the stated logger, the truth the target's."""
    context, label = classes(rng)
    of_row = {row.tobytes(): int(t) for row, t in zip(context, label, strict=True)}

    log = bandit_from_classes(context=context, label=label, logger=logger, rng=rng, target_greed=0.8)

    assert log.arm.size == label.size - round(SHARE_LEARNED * label.size)
    true = np.array([of_row[row.tobytes()] for row in log.context])
    np.testing.assert_array_equal(log.outcome, log.arm == true)
    np.testing.assert_allclose(log.propensities.sum(axis=1), 1)
    np.testing.assert_allclose(log.target_probs.sum(axis=1), 1)
    np.testing.assert_allclose(log.target_probs.max(axis=1), 0.8 + 0.2 / 4)
    assert log.truth == pytest.approx(log.target_probs[np.arange(true.size), true].mean())
    if logger == "uniform":
        np.testing.assert_allclose(log.propensities, 1 / 4)
    else:
        own = log.propensities.max(axis=1) if logger == "friendly" else log.propensities.min(axis=1)
        low, high = (0.7, 0.9) if logger == "friendly" else ((1 - 0.9) / 3, (1 - 0.7) / 3)
        assert ((own >= low) & (own <= high)).all()
        # The other three share the rest evenly.
        rest = np.sort(log.propensities, axis=1)[:, :3] if logger == "friendly" else np.sort(log.propensities)[:, 1:]
        np.testing.assert_allclose(rest, np.repeat(((1 - own) / 3)[:, None], 3, axis=1))


@pytest.mark.parametrize("logger", LOGGERS)
def test_arms_of_classes_are_drawn_with_their_propensities(seed, rng, logger):
    """Inverse propensity weighting is unbiased for the truth: arms are drawn as the propensities say."""
    context, label = classes(rng)

    errors = []
    for _ in range(30):
        log = bandit_from_classes(context=context, label=label, logger=logger, rng=rng)
        estimate = ips(arm=log.arm, outcome=log.outcome, propensity=log.propensity, target_probs=log.target_probs)
        errors.append((estimate.value - log.truth) / estimate.standard_error)

    # Means of 30 errors, each of standard deviation one at most: the standard error takes prompts as random, too.
    assert abs(np.mean(errors)) < synthetic.FALSE_FAILURE_Z / np.sqrt(30)


def test_large_logs_have_stated_propensities(rng):
    """Arms come with their frequencies, and targets are policies."""
    log = large_log(4_000, n_features=20, n_arms=5, seed=3)

    gap = np.bincount(log.arm, minlength=5) - log.propensities.sum(axis=0)
    spread = np.sqrt((log.propensities * (1 - log.propensities)).sum(axis=0))
    assert (abs(gap) < synthetic.FALSE_FAILURE_Z * spread).all()
    for target_probs in policies(log.context, n_arms=5, n_policies=3):
        np.testing.assert_allclose(target_probs.sum(axis=1), 1)


def test_a_disagreement_is_said():
    """A difference beyond what is allowed, or none to be had, does not pass for agreement."""
    found = [
        Comparison(peer="p", quantity="q", n_compared=1, difference=difference, allowed=SAME_FOLDS)
        for difference in (0.0, SAME_FOLDS, 2 * SAME_FOLDS, np.nan)
    ]

    assert [each.agrees for each in found] == [True, True, False, False]
    assert sum("**no**" in line for line in section(found)) == 2


def test_values_agree_with_the_peers():
    """obp, vw-estimators, doubleml and econml find the same numbers on the same logs, folds and nuisances."""
    if not PYTHON.exists():
        pytest.skip(f"the peers' environment is not here: {PYTHON} does not exist; make it with `make peers`")
    finished = subprocess.run(  # noqa: S603 - our own module
        [str(PYTHON), "-m", "benchmarks.peers.agreement"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_streamed_log_is_one_log(tmp_path):
    """Sums of batches give the estimate of all rounds at once, whatever the size of a batch, and cover the truth."""
    path = tmp_path / "log.parquet"
    streaming.write_log(path, n_rounds=30_000)
    log = pq.read_table(path)
    x = log["x"].to_numpy().astype(np.float64)
    inputs = {
        "arm": log["arm"].to_numpy().astype(np.int64),
        "outcome": log["outcome"].to_numpy().astype(np.float64),
        "propensity": log["propensity"].to_numpy().astype(np.float64),
        "target_probs": streaming.target(x),
    }
    expected = streaming.EXPECTED + 0.2 * np.tanh(x)[:, None] * streaming.LEANING
    truth = (inputs["target_probs"] * expected).sum(axis=1).mean()
    for name, whole in (("ips", ips(**inputs)), ("snips", snips(**inputs))):
        for batch_rounds in (30_000, 999):
            sums = streaming.stream(path, name, batch_rounds=batch_rounds)
            # Sums of 30,000 numbers of size one in double precision.
            assert sums.value == pytest.approx(whole.value, rel=1e-11)
            assert sums.standard_error == pytest.approx(whole.standard_error, rel=1e-9)
        assert abs(whole.value - truth) < synthetic.FALSE_FAILURE_Z * whole.standard_error


def test_joint_intervals_by_hand_are_those_of_pointsman(rng):
    """The plain pipeline that speed is compared with does the same work: its band is Pointsman's, but for draws."""
    log = large_log(3_000, n_features=20, n_arms=5)
    targets = policies(log.context, n_arms=5, n_policies=6)
    predicted = rng.uniform(size=log.propensities.shape)
    inputs = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity, "predicted": predicted}
    estimates = [dr(**inputs, target_probs=target_probs) for target_probs in targets]

    low, high = speed._from_scores(pseudo_outcomes(**inputs), targets)
    ours = joint_intervals([each.value for each in estimates], [each.influence for each in estimates])

    np.testing.assert_allclose((low + high) / 2, [each.value for each in estimates], rtol=1e-10)
    # The 95% quantile of 1,000 draws has a standard error of sqrt(.95 x .05 / 1000) / density, the density of the
    # largest of six |normals| being about 0.2 there: 0.035 of a critical value of about 2.6.
    np.testing.assert_allclose(high - low, ours.high - ours.low, rtol=synthetic.FALSE_FAILURE_Z * 0.035 / 2.6)


def test_errors_are_summed_up_as_ratios_of_mean_squares():
    """Half the error everywhere is a quarter of the mean square, exactly, and no method is better than the best."""
    errors = np.array([1.0, -2.0, 0.5, 3.0])
    found = {"world": {"pointsman dr": errors / 2, "obp DoublyRobust": errors}}

    assert accuracy._ratio(errors / 2, errors) == pytest.approx((0.25, 0.25, 0.25))
    assert accuracy._best(found["world"], "obp") == "obp DoublyRobust"
    value, half_width = accuracy._root_mean_square(errors)
    assert value == pytest.approx(np.sqrt(14.25 / 4))
    assert half_width == pytest.approx(1.96 * np.std(errors**2, ddof=1) / 2 / (2 * value))
