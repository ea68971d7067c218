"""What to label next: the closed form against brute force, and against labelling at random."""

from __future__ import annotations

import numpy as np
import pytest
from judging import judging
from synthetic import FALSE_FAILURE_Z

from pointsman.errors import InvalidParameterError
from pointsman.fusion import make_correction
from pointsman.fusion.acquisition import choose_labels, expected_narrowing, next_labels, regret_reduction


def _problem(rng, *, n_decisions=12, n_candidates=40, n_columns=5) -> dict:
    root = rng.normal(size=(n_columns, n_columns)) / np.sqrt(n_columns)
    return {
        "gap": rng.normal(scale=0.5, size=n_decisions),
        "contrast": rng.normal(size=(n_decisions, n_columns)),
        "candidates": rng.normal(size=(n_candidates, n_columns)) * rng.uniform(0.05, 1, (n_candidates, 1)),
        "noise": rng.uniform(0.2, 1.0, n_candidates),
        "covariance": root @ root.T,
    }


def _believed_after(problem, rows, *, n_draws, rng):
    """Return each decision's gap as believed after these labels, (n_draws, n_decisions), drawn from beliefs."""
    design, covariance = problem["candidates"][rows], problem["covariance"]
    w = rng.multivariate_normal(np.zeros(len(covariance)), covariance, size=n_draws)
    label = w @ design.T + rng.normal(size=(n_draws, len(rows))) * np.sqrt(problem["noise"][rows])
    gain = covariance @ design.T @ np.linalg.inv(design @ covariance @ design.T + np.diag(problem["noise"][rows]))
    return problem["gap"] + label @ (problem["contrast"] @ gain).T


def test_gain_is_what_brute_force_finds(seed, rng):
    """The gain of a batch, summed, is the mean over drawn labels of max(gap, 0) afterwards minus now."""
    problem = _problem(rng)

    chosen = choose_labels(**problem, n_next=4)

    after = np.maximum(_believed_after(problem, chosen.candidate, n_draws=200_000, rng=rng), 0).mean(axis=1)
    error = after.std() / np.sqrt(after.size)
    assert abs(after.mean() - np.maximum(problem["gap"], 0).mean() - chosen.gain.sum()) < FALSE_FAILURE_Z * error


def test_the_first_choice_is_the_best_of_all(seed, rng):
    """No other single label has a larger gain; each is computed here from the two-armed closed form's definition."""
    problem = _problem(rng)

    chosen = choose_labels(**problem, n_next=1)

    gains = []
    for row, noise in zip(problem["candidates"], problem["noise"], strict=True):
        spread = problem["covariance"] @ row
        deviation = abs(problem["contrast"] @ spread) / np.sqrt(row @ spread + noise)
        gains.append(regret_reduction(problem["gap"], deviation).mean())
    assert chosen.candidate[0] == np.argmax(gains)
    assert chosen.gain[0] == pytest.approx(max(gains))


def test_covariance_is_that_of_bayes(rng):
    """After all labels it is the inverse of the prior precision plus those of the labels, and none is chosen twice."""
    problem = _problem(rng, n_candidates=6)

    chosen = choose_labels(**problem, n_next=20)

    design = problem["candidates"]
    precision = np.linalg.inv(problem["covariance"]) + design.T @ (design / problem["noise"][:, None])
    assert sorted(chosen.candidate) == list(range(6))
    # Two inverses of matrices whose condition numbers multiply to under 10^6 lose that much of 2^-52.
    np.testing.assert_allclose(chosen.covariance, np.linalg.inv(precision), atol=1e-9)
    assert (chosen.gain > 0).all()


def test_certain_labels_teach_nothing():
    """Where nothing is in doubt there is no gain; an even decision gains s phi(0)."""
    assert regret_reduction(np.array([0.0, 1.0]), np.zeros(2)).tolist() == [0.0, 0.0]
    assert regret_reduction(np.array([0.0]), np.array([0.3]))[0] == pytest.approx(0.3 / np.sqrt(2 * np.pi))
    assert regret_reduction(np.array([50.0]), np.array([0.1]))[0] == 0.0


def test_active_labels_beat_random_ones():
    """Over 100 problems, truth drawn from beliefs, routing after 10 chosen labels loses less than after 10 random."""
    saved = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        problem = _problem(rng, n_decisions=60, n_candidates=300, n_columns=12)
        covariance = problem["covariance"]
        w = rng.multivariate_normal(np.zeros(12), covariance)
        truth = problem["gap"] + problem["contrast"] @ w
        label = problem["candidates"] @ w + rng.normal(size=300) * np.sqrt(problem["noise"])
        regret = []
        for rows in (choose_labels(**problem, n_next=10).candidate, rng.permutation(300)[:10]):
            design = problem["candidates"][rows]
            joint = design @ covariance @ design.T + np.diag(problem["noise"][rows])
            mean = covariance @ design.T @ np.linalg.solve(joint, label[rows])
            believed = problem["gap"] + problem["contrast"] @ mean
            regret.append((np.maximum(truth, 0) - truth * (believed > 0)).mean())
        saved.append(regret[1] - regret[0])

    assert np.mean(saved) > FALSE_FAILURE_Z * np.std(saved, ddof=1) / 10


def test_it_asks_for_rounds_without_gold(seed, rng):
    """Rounds are distinct, lack gold, and what they gain is at least what random ones do; pairs are two arms."""
    rounds = judging(n_rounds=1_500, n_gold=60, rng=rng, n_arms=3, n_judges=2).rounds
    correction = make_correction("hierarchical").fit(rounds)
    predicted = 0.5 + 0.05 * rng.normal(size=(1_500, 3))

    found = next_labels(rounds, correction, predicted=predicted, n_next=15, n_prompts=100, n_candidates=400)

    assert found.row.size == 15 == np.unique(found.row).size
    assert not rounds.has_gold[found.row].any()
    assert (found.gain > 0).all()
    assert found.total_gain > found.random_gain > 0
    assert (found.best != found.runner_up).all()
    assert (found.n_prompts, found.n_candidates) == (100, 400)


def test_it_asks_of_the_arms_in_doubt(seed, rng):
    """An arm that no decision turns on is left alone: its labels would change nothing but through what arms share."""
    rounds = judging(n_rounds=1_500, n_gold=90, rng=rng, n_arms=3, slopes=0.1).rounds
    correction = make_correction("hierarchical").fit(rounds)
    predicted = np.tile([0.6, 0.6, -5.0], (1_500, 1))

    found = next_labels(rounds, correction, predicted=predicted, n_next=30, n_prompts=200)

    assert {*found.best, *found.runner_up} == {0, 1}
    # Drawn at random 10 of 30 would be of arm 2; 3 or fewer come by chance once in 1,000, and are not what is tested.
    assert (rounds.arm[found.row] == 2).sum() <= 3


def test_cost_can_settle_a_decision(rng):
    """With an offset that puts one arm far ahead there is nothing left to learn."""
    rounds = judging(n_rounds=800, n_gold=80, rng=rng).rounds
    correction = make_correction("hierarchical").fit(rounds)

    found = next_labels(
        rounds, correction, predicted=np.full((800, 3), 0.5), utility_offset=np.array([0.0, -9.0, -9.0]), n_next=5
    )

    assert found.total_gain == 0.0


def test_nothing_to_ask_is_refused(rng):
    """One arm, or gold everywhere, leaves nothing to choose."""
    rounds = judging(n_rounds=200, n_gold=200, rng=rng).rounds
    correction = make_correction("hierarchical").fit(rounds)
    with pytest.raises(InvalidParameterError, match="at least one round must lack a gold label"):
        next_labels(rounds, correction, predicted=np.full((200, 3), 0.5))
    alone = judging(n_rounds=200, n_gold=50, rng=rng, n_arms=1).rounds
    with pytest.raises(InvalidParameterError, match="at least two arms"):
        next_labels(alone, make_correction("hierarchical").fit(alone), predicted=np.full((200, 1), 0.5))


def test_narrowing_is_what_more_labels_do(seed, rng):
    """The standard error foretold for four times the gold is that found with them, and now's is that of the mean."""
    n = 20_000
    judged = rng.random(n)
    gold = np.clip(judged - 0.1 + 0.1 * rng.normal(size=n), 0, 1)
    draw = rng.random(n)

    def narrowing(share, n_more):
        return expected_narrowing(
            expected=np.clip(judged - 0.1, 0, 1),
            gold=np.where(draw < share, gold, np.nan),
            probability=np.full(n, share),
            group=np.arange(n),
            n_more=n_more,
            n_gold=round(n * share),
        )

    now, later = narrowing(0.05, 3_000), narrowing(0.2, 0)

    expected = np.clip(judged - 0.1, 0, 1)
    pseudo = expected + (draw < 0.05) / 0.05 * (gold - expected)
    # A standard deviation from 1,000 gold labels of about normal tails is known to 1 / sqrt(2,000).
    assert now.later == pytest.approx(later.standard_error, rel=FALSE_FAILURE_Z / np.sqrt(2_000))
    assert now.standard_error == pytest.approx(pseudo.std() / np.sqrt(n), rel=FALSE_FAILURE_Z / np.sqrt(2_000))
    assert narrowing(0.05, 0).later == pytest.approx(now.standard_error)
