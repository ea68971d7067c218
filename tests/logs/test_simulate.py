"""Simulated logs: drawn by the policy they claim, with its true propensities, hiding exactly the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chi2, norm

from pointsman.arms import ArmSet
from pointsman.errors import InvalidParameterError
from pointsman.logs import (
    LOGGERS,
    FullFeedback,
    logging_probabilities,
    read_full_feedback,
    read_log,
    simulate,
    write_log,
)

# One false alarm in a million a test: a hundred seeds of all of them stay quiet.
RARE = 1e-6


def synthetic(n_prompts: int = 2000, n_arms: int = 4, *, costs: bool = True, seed: int = 0) -> FullFeedback:
    """Prompts of two tasks whose quality depends on length; dearer arms are better."""
    rng = np.random.default_rng([7, seed])
    length = rng.integers(1, 200, n_prompts)
    easy = 1 / (1 + np.exp(length[:, None] / 50 - np.linspace(1, 3, n_arms)))
    cost = np.linspace(1, 8, n_arms) * 1e-4 * rng.uniform(0.5, 1.5, (n_prompts, n_arms))
    return FullFeedback(
        query_id=tuple(f"q{i}" for i in rng.permutation(n_prompts)),
        prompt=tuple("x" * k for k in length),
        arms=ArmSet.named(f"arm{t}" for t in range(n_arms)),
        quality=(rng.random((n_prompts, n_arms)) < easy).astype(np.float64),
        cost_usd=cost if costs else None,
        extra=pa.table({"task": [("code", "maths")[k % 2] for k in length]}),
    )


def features(table: FullFeedback, *, n_features: int = 5) -> np.ndarray:
    """Features that show the prompt's length."""
    rng = np.random.default_rng(len(table))
    length = np.array([len(prompt) for prompt in table.prompt])
    return np.column_stack([length / 20, rng.standard_normal((len(table), n_features - 1))]).astype(np.float32)


VARIANTS: list[dict[str, Any]] = [
    {"logger": "uniform"},
    {"logger": "cheap"},
    {"logger": "cheap", "strength": 3.0, "floor": 0.0},
    {"logger": "confounded", "signal": "pc"},
    {"logger": "confounded", "signal": "length", "strength": 2.0},
    {"logger": "confounded", "signal": "task", "floor": 0.2},
    {"logger": "hidden"},
    {"logger": "deterministic", "signal": "length"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_log_is_one_arm_of_the_table_and_the_rest_is_untouched(variant):
    """Each prompt is in the log or in the rest; a round repeats the table's cell of its arm."""
    table = synthetic(300)
    simulated = simulate(table, seed=3, features=features(table), **variant)
    log, index = simulated.log, simulated.train_index
    row = np.arange(len(log))

    assert len(log) == 180
    np.testing.assert_array_equal(np.sort(np.append(index, simulated.rest_index)), np.arange(300))
    assert log.round_id == [table.query_id[i] for i in index] == list(simulated.truth.query_id)
    assert log.prompt == [table.prompt[i] for i in index]
    assert log.arms == table.arms
    np.testing.assert_array_equal(log.quality, table.quality[index, log.arm])
    np.testing.assert_array_equal(log.cost_usd, table.cost_usd[index, log.arm])
    np.testing.assert_array_equal(log.propensity, simulated.probabilities[row, log.arm])
    np.testing.assert_allclose(simulated.probabilities.sum(axis=1), 1, atol=1e-12)
    assert simulated.probabilities.min() >= 0
    assert log.table["task"].to_pylist() == simulated.truth.extra["task"].to_pylist()
    assert set(log.quality_source) == {"gold"}
    assert simulated.rest.query_id == tuple(table.query_id[i] for i in simulated.rest_index)


@pytest.mark.parametrize("variant", VARIANTS[:-1], ids=str)
def test_arms_are_drawn_as_often_as_their_propensities_say(variant, seed):
    """The counts of arms agree with the sums of their probabilities, overall and by half of the signal.

    Given the probabilities, the counts have mean sum_i p_i and covariance sum_i diag(p_i) - p_i p_i', so that the
    quadratic form in the first K - 1 counts is chi-square with K - 1 degrees of freedom.
    """
    table = synthetic(seed=seed)
    simulated = simulate(table, seed=seed, features=features(table), **variant)
    leaning = simulated.probabilities[:, 0]
    for half in (leaning >= np.median(leaning), leaning < np.median(leaning)):
        if half.sum() < 200:
            continue
        p = simulated.probabilities[half, :-1]
        counts = np.bincount(simulated.log.arm[half], minlength=len(table.arms))[:-1]
        covariance = np.diag(p.sum(axis=0)) - p.T @ p
        off = counts - p.sum(axis=0)
        assert off @ np.linalg.solve(covariance, off) < chi2.isf(RARE, df=off.size)


@pytest.mark.parametrize("variant", VARIANTS[:-1], ids=str)
def test_weighting_by_the_propensity_recovers_every_arm(variant, seed):
    """The inverse-propensity mean of each arm is unbiased for its mean over the logged prompts.

    Given the prompts its variance is sum_i q_it^2 (1 - p_it) / p_it / n^2, known exactly.
    """
    table = synthetic(seed=seed)
    simulated = simulate(table, seed=seed, features=features(table), **variant)
    log, p, quality = simulated.log, simulated.probabilities, simulated.truth.quality
    for t in range(len(table.arms)):
        estimate = np.mean((log.arm == t) * log.quality / log.propensity)
        standard_error = np.sqrt(np.sum(quality[:, t] ** 2 * (1 - p[:, t]) / p[:, t])) / len(log)
        assert abs(estimate - quality[:, t].mean()) < norm.isf(RARE / 2) * standard_error


def test_confounded_is_the_stated_formula():
    """P(t|x) = (1 - floor) softmax_t(S (s - 1/2) r_t) + floor/K, with s of mean 0 and standard deviation 1."""
    table = synthetic(500)
    got = logging_probabilities(table, logger="confounded", signal="length", strength=1.7, floor=0.1, seed=0)

    raw = np.log([len(prompt) for prompt in table.prompt])
    s = (raw - raw.mean()) / raw.std()
    r = np.array([-1, -1 / 3, 1 / 3, 1])  # the arms are named in order of cost
    weights = np.exp(1.7 * (s - 0.5)[:, None] * r)
    np.testing.assert_allclose(got, 0.9 * weights / weights.sum(axis=1, keepdims=True) + 0.1 / 4, rtol=1e-12)
    assert got.min() >= 0.1 / 4


def test_cheap_ignores_the_prompt_and_deterministic_leaves_no_choice():
    """Cheap: softmax of -S r_t for everyone. Deterministic: the confounded policy's likeliest arm, at propensity 1."""
    table = synthetic(500)
    cheap = logging_probabilities(table, logger="cheap", floor=0.0, seed=0)
    weights = np.exp([1, 1 / 3, -1 / 3, -1])
    np.testing.assert_allclose(cheap, np.tile(weights / weights.sum(), (500, 1)), rtol=1e-12)

    confounded = logging_probabilities(table, logger="confounded", signal="length", seed=0)
    simulated = simulate(table, logger="deterministic", signal="length", seed=0)
    np.testing.assert_array_equal(simulated.log.arm, confounded.argmax(axis=1)[simulated.train_index])
    np.testing.assert_array_equal(simulated.log.propensity, 1.0)


def test_ranks_are_of_mean_cost_or_of_mean_quality_without_one_and_ties_share():
    """The dearest arm has rank 1 and the cheapest -1; equal arms have equal probabilities."""
    table = synthetic(500, costs=False)
    by_quality = table.quality.mean(axis=0).argsort()
    cheap = logging_probabilities(table, logger="cheap", seed=0)[0]
    np.testing.assert_array_equal(cheap.argsort()[::-1], by_quality)

    fields = {name: getattr(table, name) for name in ("query_id", "prompt", "arms", "quality")}
    tied = FullFeedback(**fields, cost_usd=np.tile([1.0, 2.0, 2.0, 3.0], (500, 1)))
    cheap = logging_probabilities(tied, logger="cheap", strength=1.0, floor=0.0, seed=0)[0]
    np.testing.assert_allclose(np.log(cheap) - np.log(cheap[1]), [1, 0, 0, -1], atol=1e-12)


def test_pc_is_the_first_principal_component_with_a_fixed_sign():
    """Mirrored features give the mirrored component, so the same policy up to which features they are."""
    table = synthetic(500)
    wide = features(table) * [10, 1, 1, 1, 1]
    got = logging_probabilities(table, logger="confounded", signal="pc", floor=0.0, seed=0, features=wide)
    centred = wide - wide.mean(axis=0)
    component = np.linalg.svd(centred, full_matrices=False)[2][0]
    s = centred @ component * np.sign(component[abs(component).argmax()])
    s /= s.std()
    # log-odds of the dearest against the cheapest arm: S (s - 1/2) (1 - -1)
    np.testing.assert_allclose(np.log(got[:, -1] / got[:, 0]), 2 * (s - 0.5), atol=1e-6)


def test_task_gives_each_task_its_own_favourites():
    """Within a task one distribution, the same ranks reshuffled between tasks for some seed, repeated by that seed."""
    table = synthetic(500)
    task = np.array(table.extra["task"].to_pylist())
    favourites = set()
    for seed in range(20):
        p = logging_probabilities(table, logger="confounded", signal="task", seed=seed)
        for name in ("code", "maths"):
            assert (p[task == name] == p[task == name][0]).all()
        np.testing.assert_allclose(np.sort(p[0]), np.sort(p[-1]), rtol=1e-12)
        favourites.add((p[task == "code"][0].argmax(), p[task == "maths"][0].argmax()))
    # 20 draws of 16 equally likely pairs: all equal with probability 16^-19
    assert len(favourites) > 1
    again = logging_probabilities(table, logger="confounded", signal="task", seed=19)
    np.testing.assert_array_equal(p, again)


def test_the_hidden_signal_drives_choice_and_outcome_and_no_feature_shows_it(seed):
    """Its log-odds are uncorrelated with every feature, and strongly correlated with the prompt's mean quality.

    Quality depends on the features only through length, so most of its variance is left to the hidden part: the
    correlation is well above 1/2, its sampling error 1/sqrt(2000) = .02.
    """
    table = synthetic(seed=seed)
    seen = features(table)
    p = logging_probabilities(table, logger="hidden", floor=0.0, seed=seed, features=seen)
    log_odds = np.log(p[:, -1] / p[:, 0])
    difficulty = table.quality.mean(axis=1)
    design = np.column_stack([np.ones(len(table)), seen])
    unexplained = difficulty - design @ np.linalg.lstsq(design, difficulty, rcond=None)[0]

    for column in seen.T:
        assert abs(np.corrcoef(log_odds, column)[0, 1]) < 1e-6
    assert np.corrcoef(log_odds, unexplained)[0, 1] > 0.5


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_order_of_the_table_does_not_matter(variant):
    """Reversed or shuffled rows give the same rounds, byte for byte, in another order."""
    table = synthetic(400)
    seen = features(table)
    order = np.random.default_rng(1).permutation(400)
    one = simulate(table, seed=5, features=seen, **variant).log
    other = simulate(table.take(order), seed=5, features=seen[order], **variant).log

    assert one.take(np.argsort(one.round_id)).content_hash == other.take(np.argsort(other.round_id)).content_hash


def test_seeds_repeat_and_differ():
    """One seed, one log; another seed, another."""
    table = synthetic(400)
    hashes = [simulate(table, logger="uniform", seed=seed).log.content_hash for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_simulated_log_survives_its_file(tmp_path):
    """Written and read, it is the same log."""
    log = simulate(synthetic(100), logger="cheap", seed=0).log
    write_log(log, tmp_path / "log.csv")
    assert read_log(tmp_path / "log.csv").content_hash == log.content_hash


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"logger": "random"}, "logger must be one of uniform, cheap"),
        ({"signal": "moon"}, "signal must be one of pc, length, task; got 'moon'"),
        ({"floor": -0.1}, r"floor must be in \[0, 1\]; got -0.1"),
        ({"floor": np.nan}, "floor must be"),
        ({"share": 0.0}, r"share must be in \(0, 1\); got 0.0"),
        ({"share": 1.0}, "share must be"),
        ({"share": 0.001}, "share must leave a prompt on either side"),
        ({"strength": -1.0}, "strength must be finite and >= 0; got -1.0"),
        ({"strength": np.inf}, "strength must be"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"signal": "pc"}, "signal 'pc' needs features"),
        ({"signal": "pc", "features": np.zeros((3, 2))}, "features must be finite, one row for each of .* 50 prompts"),
        ({"signal": "pc", "features": np.full((50, 2), np.nan)}, "features must be finite"),
        ({"signal": "pc", "features": np.ones((50, 2))}, "signal 'pc' must differ between prompts"),
        ({"logger": "hidden", "features": np.eye(50)}, "the hidden signal must differ"),
    ],
)
def test_invalid_parameters_are_refused(asked, message):
    """Name, rule and value."""
    with pytest.raises(InvalidParameterError, match=message):
        simulate(synthetic(50), **({"logger": "confounded", "signal": "length", "seed": 0} | asked))


def test_a_signal_the_table_lacks_is_refused():
    """No task column, no task signal."""
    table = synthetic(50)
    fields = {name: getattr(table, name) for name in ("query_id", "prompt", "arms", "quality", "cost_usd")}
    with pytest.raises(InvalidParameterError, match="signal 'task' needs a column 'task'"):
        simulate(FullFeedback(**fields), logger="confounded", signal="task", seed=0)


@pytest.mark.data
@pytest.mark.parametrize("logger", LOGGERS)
def test_real_tables_give_logs(shared_data, logger):
    """Gold with cost, judged with cost, and gold without cost: the log says which."""
    for name, asked, source, has_cost in (
        ("routerbench_subset", {"where": {"shots": "5"}}, "gold", True),
        ("paretobandit", {"quality_column": "judge_deepseek_r1"}, "judge_deepseek_r1", True),
        ("llmrouter", {}, "gold", False),
    ):
        table = read_full_feedback(shared_data / f"{name}.parquet", **asked)
        simulated = simulate(table, logger=logger, signal="task", seed=0)
        assert len(simulated.log) == round(0.6 * len(table))
        assert set(simulated.log.quality_source) == {source}
        assert np.isnan(simulated.log.cost_usd).any() != has_cost
        if logger != "deterministic":
            counts = np.bincount(simulated.log.arm, minlength=len(table.arms))
            assert counts.min() >= 0.5 * 0.05 / len(table.arms) * len(simulated.log)
