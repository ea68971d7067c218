"""Settings as the request path reads them: what a reload keeps, and what it changes."""

from __future__ import annotations

from pointsman.gateway.serving import Serving
from pointsman.gateway.settings import Settings


def settings(url: str, **breaker: float) -> Settings:
    """One model at this address."""
    return Settings(
        upstreams={"main": {"base_url": url, "breaker": breaker}},
        models=[{"name": "m", "upstream": "main", "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}],
    )


def test_a_reload_keeps_what_is_known_of_a_model_s_health():
    """A circuit stays open, and new numbers of the breaker are in force at once."""
    before = Serving.of(settings("http://127.0.0.1:9/v1", failures=2, cooldown_s=60))
    for _ in range(2):
        before.models["m"].breaker.fail()
    after = Serving.of(settings("http://127.0.0.1:9/v1", failures=7, cooldown_s=3), before=before)
    breaker = after.models["m"].breaker
    assert breaker.is_open
    assert (breaker.threshold, breaker.cooldown_s) == (7, 3)


def test_a_model_that_moved_is_not_judged_by_where_it_was():
    """Another address begins with a closed circuit."""
    before = Serving.of(settings("http://127.0.0.1:9/v1", failures=1))
    before.models["m"].breaker.fail()
    assert not Serving.of(settings("http://127.0.0.1:8/v1"), before=before).models["m"].breaker.is_open
