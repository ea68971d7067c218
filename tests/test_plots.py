"""Plots are the same to the byte for the same router, and readable."""

from __future__ import annotations

import numpy as np
import pytest

from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.online import policy
from pointsman.online.replay import PriceCut, compare, stream
from pointsman.pipeline import fit
from pointsman.plots import (
    Point,
    cost_quality_plot,
    frontier_trade_offs,
    oracle_frontier,
    replay_plot,
    router_frontier,
    single_models,
    write_plot,
)
from tests.tables import small_logs, small_table

Text = pytest.importorskip("matplotlib.text").Text


def draw(singles=None):
    """Return a figure of a router on the small table."""
    log, _, truth = small_logs()
    return cost_quality_plot(
        routers=[router_frontier(fit(log, method="direct"), truth, label="direct")],
        singles=single_models(truth) if singles is None else singles,
        logging=Point(label="logging", cost_usd=1e-3, quality=0.6),
        oracle=oracle_frontier(truth),
        title="small",
    )


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    """PNG and SVG carry no date, version or random id."""
    for name in ("a", "b"):
        write_plot(draw(), tmp_path / name)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.svg", "b.png", "b.svg"}


def test_labels_do_not_overlap(rng):
    """Eleven models, many of them close, are labelled apart."""
    singles = [
        Point(label=f"vendor/model-number-{i}", cost_usd=float(cost), quality=float(quality))
        for i, (cost, quality) in enumerate(zip(np.geomspace(1e-4, 3e-3, 11), rng.uniform(0.5, 0.9, 11), strict=True))
    ]
    figure = draw(singles)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [Text.get_window_extent(text, renderer) for text in figure.axes[0].texts]
    assert len(boxes) == 11
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_oracle_is_never_beaten():
    """At every trade-off the oracle's utility is at least that of any router and any model."""
    log, _, truth = small_logs()
    routed = router_frontier(fit(log, method="direct"), truth, label="direct")
    for value, best, router in zip(frontier_trade_offs(truth), oracle_frontier(truth), routed, strict=True):
        utility = best.quality - value * best.cost_usd
        for other in [router, *single_models(truth)]:
            assert utility >= other.quality - value * other.cost_usd - 1e-9 * max(1, value * other.cost_usd)


def test_a_table_without_cost_has_no_plot():
    """There is no axis to draw it on."""
    table = small_table(with_cost=False)
    for function in (frontier_trade_offs, single_models, oracle_frontier):
        with pytest.raises(InvalidParameterError, match="cost"):
            function(table)


def test_a_plot_is_written_whole_or_not_at_all(tmp_path):
    """A missing folder is an error, and leaves nothing."""
    with pytest.raises(InvalidLogError, match="does not exist"):
        write_plot(draw(), tmp_path / "nowhere" / "plot")
    assert list(tmp_path.iterdir()) == []


def replayed(*, with_cost=True):
    """Return two policies compared on the small table."""
    table = small_table(n_prompts=60, with_cost=with_cost)
    context = np.random.default_rng(0).normal(size=(60, 4))
    return compare(
        lambda seed: stream(
            table,
            context,
            scenarios=[PriceCut(at=20, arm="dear", factor=0.1)] if with_cost else [],
            rng=np.random.default_rng(seed),
        ),
        {
            name: lambda requests, _, name=name: policy(name, n_arms=len(requests.arms), n_features=4)
            for name in ("epsilon-greedy", "beta-thompson")
        },
        seeds=(0, 1),
    )


def test_a_replay_is_drawn_as_it_went(tmp_path):
    """Every policy's mean regret and spend, the best model's, and a line across where something changed."""
    found = replayed()
    figure = replay_plot(found, title="small")
    regret, spend = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in regret.lines}
    for curve in found.curves[:2]:
        np.testing.assert_array_equal(lines[curve.label], curve.regret.mean(axis=0))
        assert any(np.array_equal(line.get_ydata(), curve.spend_usd.mean(axis=0)) for line in spend.lines)
    assert not lines["best model in hindsight"].any()
    assert any(list(line.get_xdata()) == [20, 20] for line in spend.lines)
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "best model in hindsight",
        "epsilon-greedy",
        "beta-thompson",
    ]
    for name in ("a", "b"):
        write_plot(replay_plot(found, title="small"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_costs_nothing_has_no_curve_of_spending():
    """One panel is left."""
    assert len(replay_plot(replayed(with_cost=False), title="free").axes) == 1
