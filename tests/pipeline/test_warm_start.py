"""A fitted router as the beginning of one that learns."""

from __future__ import annotations

import numpy as np
import pytest

from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs import LoggedRounds
from pointsman.pipeline import fit, score, warm_start
from pointsman.registry import load_router, save_router
from pointsman.trade_off import TradeOff
from tests.tables import small_logs


@pytest.mark.parametrize("method", ["auto", "rm-softmax", "best-single"])
def test_any_router_can_begin(method, tmp_path):
    """Whatever it was fitted by, it begins near the log's best model, learns on, and is a folder like any other."""
    log, _, truth = small_logs()
    live = warm_start(fit(log, method=method), log)
    assert live.facts.method == "online"
    assert live.facts.options["from"] == method
    found = score(live, truth, quality_per_usd=[0.0]).rows[0]
    assert found["value"] > found["best_single_value"] - 0.05
    save_router(live, tmp_path / "router")
    context = live.context(["soup"])
    np.testing.assert_allclose(
        load_router(tmp_path / "router").probabilities(context, TradeOff()), live.probabilities(context, TradeOff())
    )


def test_less_trust_is_moved_sooner():
    """Against one answer that disagrees, a log that is trusted a tenth gives way further."""
    log, _, _ = small_logs()
    router = fit(log, method="direct")
    context = router.context(["onion butter soup"])[0].astype(np.float64)
    dear = router.arms.index("dear")
    moved = {}
    for trust in (1.0, 0.1):
        learner = warm_start(router, log, trust=trust).policy.learner
        before = learner.expected(context)[0][dear]
        learner.update(context, dear, quality=0.5)
        moved[trust] = before - learner.expected(context)[0][dear]
    assert moved[0.1] > moved[1.0] > 0


def test_propensities_that_nobody_logged_are_trusted_by_half():
    """What else drove the choice is not known then."""
    log, _, _ = small_logs()
    router = fit(log, method="direct")
    assert warm_start(router, log).facts.options["trust"] == 1.0
    unknown = log.with_columns(propensity=np.full(log.n_rounds, np.nan))
    assert warm_start(router, unknown).facts.options["trust"] == 0.5


def test_bad_arguments_are_named():
    """No trust is no warm start; a log of other models teaches nothing."""
    log, _, _ = small_logs()
    router = fit(log, method="direct")
    with pytest.raises(InvalidParameterError, match="trust"):
        warm_start(router, log, trust=0.0)
    other = LoggedRounds.from_columns(round_id=["a", "b"], prompt=["soup", "law"], model=["x", "x"], quality=[0.1, 0.9])
    with pytest.raises(InvalidLogError, match="models"):
        warm_start(router, other)
