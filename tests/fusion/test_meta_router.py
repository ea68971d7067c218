"""The two-model Meta-Router by name: what each form does, and what it learns where the judge errs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from pointsman.errors import InvalidParameterError, NotFittedError, OverlapWarning
from pointsman.fusion.meta_router import META_ROUTERS, MetaRouter, meta_router

FOREST = {"n_estimators": 100, "max_depth": 20, "max_features": "sqrt", "random_state": 0}


def gains(*, n_gold, n_judge, rng, bias=-0.4, noise=0.1):
    """Return features, labels, whether they are gold and the true gain; the judge is off where the second is large."""
    x = rng.uniform(-1, 1, (n_gold + n_judge, 4))
    true = 0.4 * np.sign(x[:, 0])
    is_gold = np.arange(len(x)) < n_gold
    label = true + np.where(is_gold, 0, bias * (x[:, 1] > 0)) + noise * rng.uniform(-1, 1, len(x))
    return x, np.clip(label, -1, 1), is_gold, true


def test_labels_as_they_are_make_a_forest_of_them(rng):
    """Without an effect a router is a random forest of the labels it may look at, on principal components."""
    x, label, is_gold, _ = gains(n_gold=40, n_judge=80, rng=rng)
    inputs = PCA(4, svd_solver="full").fit_transform(x)

    for name, rows in (("gold-only", is_gold), ("judge-only", ~is_gold)):
        router = meta_router(name).fit(x, label, is_gold)
        expected = RandomForestRegressor(**FOREST).fit(inputs[rows], label[rows]).predict(inputs)
        np.testing.assert_allclose(router.predict(x), expected)
    scaled = np.where(is_gold, label, label * (label[is_gold].std() / label[~is_gold].std()))
    expected = RandomForestRegressor(**FOREST).fit(inputs, scaled).predict(inputs)
    np.testing.assert_allclose(meta_router("pooled").fit(x, label, is_gold).predict(x), expected)
    expected = RandomForestRegressor(**FOREST).fit(inputs, label).predict(inputs)
    unscaled = meta_router("pooled", match_scales=False).fit(x, label, is_gold)
    np.testing.assert_allclose(unscaled.predict(x), expected)
    all_gold = meta_router("all-gold").fit(x, label, np.ones_like(is_gold))
    np.testing.assert_allclose(all_gold.predict(x), expected)


@pytest.mark.filterwarnings("ignore::pointsman.errors.OverlapWarning")
@pytest.mark.parametrize("effect", ["r", "dr"])
def test_as_coded_is_the_recipe_in_sample(rng, effect):
    """Forests predict what they were fitted to, propensities and effects are clipped, DR drops what lacks overlap."""
    x, label, is_gold, _ = gains(n_gold=60, n_judge=140, rng=rng)
    z = is_gold.astype(float)
    o = np.where(is_gold, label, label * (label[is_gold].std() / label[~is_gold].std()))
    e = RandomForestClassifier(**FOREST).fit(x, z).predict_proba(x)[:, 1]
    forest = RandomForestRegressor(
        n_estimators=200, max_depth=30, max_features="sqrt", min_samples_leaf=2, random_state=0
    )
    if effect == "r":
        e = np.clip(e, 0.1, 0.9)
        m = RandomForestRegressor(**FOREST).fit(x, o).predict(x)
        forest.fit(x, (o - m) / (z - e), sample_weight=(z - e) ** 2)
    else:
        e = np.clip(e, 0.05, 0.95)
        mu = [RandomForestRegressor(**FOREST).fit(x[z == k], o[z == k]).predict(x) for k in (0, 1)]
        score = (z - e) / (e * (1 - e)) * (o - np.where(is_gold, mu[1], mu[0])) + mu[1] - mu[0]
        kept = e * (1 - e) > 0.05
        assert not kept.all()
        forest.fit(x[kept], score[kept])
    expected = np.clip(forest.predict(x), -1.2, 1.2)

    router = MetaRouter(effect=effect, n_components=None).fit(x, label, is_gold)

    np.testing.assert_allclose(router.effect_, expected)
    corrected = np.where(is_gold, o, o + expected)
    np.testing.assert_allclose(router.predict(x), RandomForestRegressor(**FOREST).fit(x, corrected).predict(x))


def test_dropped_units_are_said_aloud(rng):
    """The DR form as coded warns of their share; the form as written has nothing to drop."""
    x, label, is_gold, _ = gains(n_gold=30, n_judge=300, rng=rng)

    with pytest.warns(OverlapWarning, match="% of the labels have"):
        MetaRouter(effect="dr").fit(x, label, is_gold)
    MetaRouter(effect="dr", variant="as-written").fit(x, label, is_gold)


@pytest.mark.parametrize("effect", ["r", "dr"])
def test_as_written_finds_where_the_judge_errs(seed, rng, effect):
    """The effect is the judge's lack on one half of the prompts, and nothing on the other."""
    x, label, is_gold, _ = gains(n_gold=300, n_judge=600, rng=rng)
    router = MetaRouter(effect=effect, variant="as-written", n_components=None, match_scales=False)

    found = router.fit(x, label, is_gold).effect_

    # Away from the step, where leaves of 15 labels of 900 lie on one side: trees of two of four features that miss the
    # second see the mean of both halves, so that less than all of the 0.4 is found; noise is 0.06 over the root of 15.
    off, right = (found[~is_gold & side].mean() for side in (x[:, 1] > 0.25, x[:, 1] < -0.25))
    assert 0.2 < off < 0.45
    assert abs(right) < 0.15


@pytest.mark.parametrize("effect", ["r", "dr"])
def test_no_label_is_corrected_by_its_own_noise(seed, rng, effect):
    """As written, the effect of a judge's label owes nothing to that label; as coded, it does."""
    x, label, is_gold, _ = gains(n_gold=100, n_judge=300, rng=rng, bias=0.0, noise=0.5)
    noise = (label - 0.4 * np.sign(x[:, 0]))[~is_gold]
    settings = {"effect": effect, "n_components": None, "match_scales": False}

    written = MetaRouter(variant="as-written", **settings).fit(x, label, is_gold).effect_[~is_gold]

    # The correlation of independent numbers has standard deviation 1 / sqrt(300) = 0.06; neighbours' noise is in the
    # forests of others, of which a prompt's own is a small and negative part.
    assert abs(np.corrcoef(written, noise)[0, 1]) < 4.89 / np.sqrt(300)
    if effect == "r":
        coded = MetaRouter(variant="as-coded", **settings).fit(x, label, is_gold).effect_[~is_gold]
        assert np.corrcoef(coded, noise)[0, 1] < -0.5


def test_nuisances_as_written_owe_nothing_to_the_label_they_predict(seed, rng):
    """Means of gold and of the judge are uncorrelated with the noise of their own labels."""
    x, label, is_gold, true = gains(n_gold=150, n_judge=300, rng=rng, bias=0.0, noise=0.5)

    means = MetaRouter(seed=seed)._means_out_of_bag(x, label, is_gold.astype(float))

    for k, rows in ((0, ~is_gold), (1, is_gold)):
        correlation = np.corrcoef(means[k, rows], (label - true)[rows])[0, 1]
        assert abs(correlation) < 4.89 / np.sqrt(rows.sum())


def test_the_strong_model_must_be_worth_its_price(rng):
    """A prompt goes to it where the predicted gain exceeds lambda times what it costs more."""
    x, label, is_gold, _ = gains(n_gold=60, n_judge=60, rng=rng)
    router = meta_router("pooled").fit(x, label, is_gold)
    gap = rng.uniform(0, 1e-3, 120)

    strong = router.choose_strong(x, cost_gap_usd=gap, quality_per_usd=300.0)

    np.testing.assert_array_equal(strong, router.predict(x) > 300 * gap)
    assert 0 < strong.mean() < 1
    assert not router.choose_strong(x, cost_gap_usd=1.0, quality_per_usd=300.0).any()


@pytest.mark.filterwarnings("ignore::pointsman.errors.OverlapWarning")
@pytest.mark.parametrize("name", META_ROUTERS)
@pytest.mark.parametrize("variant", ["as-coded", "as-written"])
def test_every_name_fits_and_repeats_itself(rng, name, variant):
    """One seed, one router."""
    x, label, is_gold, _ = gains(n_gold=20, n_judge=60, rng=rng)
    router = meta_router(name, variant=variant, seed=3)

    first, again = (clone(router).fit(x, label, is_gold).predict(x) for _ in range(2))

    np.testing.assert_array_equal(first, again)
    assert (abs(first) <= 2.2).all()


def test_what_cannot_be_fitted_is_refused(rng):
    """Unknown options, labels outside [-1, 1], lengths that differ, and kinds of label that are missing."""
    x, label, is_gold, _ = gains(n_gold=5, n_judge=5, rng=rng)

    for options in ({"effect": "x"}, {"variant": "x"}, {"labels": "x"}, {"effect": "r", "labels": "gold"}):
        with pytest.raises(InvalidParameterError, match="must be"):
            MetaRouter(**options).fit(x, label, is_gold)
    with pytest.raises(InvalidParameterError, match="name must be among"):
        meta_router("best")
    with pytest.raises(InvalidParameterError, match="gain in"):
        MetaRouter().fit(x, label * np.nan, is_gold)
    with pytest.raises(InvalidParameterError, match="one length"):
        MetaRouter().fit(x[:3], label, is_gold)
    for name in ("r", "gold-only"):
        with pytest.raises(InvalidParameterError, match="n_gold 0"):
            meta_router(name).fit(x, label, np.zeros(10, dtype=bool))
    with pytest.raises(InvalidParameterError, match="n_judge 0"):
        meta_router("judge-only").fit(x, label, np.ones(10, dtype=bool))
    with pytest.raises(InvalidParameterError, match="at least one"):
        meta_router("pooled").fit(x[:0], label[:0], is_gold[:0])
    with pytest.raises(NotFittedError):
        MetaRouter().predict(x)
