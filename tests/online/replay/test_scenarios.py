"""Scenarios: spelled as text, and refused where they make no sense."""

from __future__ import annotations

import pytest

from pointsman.errors import InvalidParameterError
from pointsman.online.base import ArmPrior
from pointsman.online.replay import (
    Delay,
    NewArm,
    Outage,
    PriceCut,
    QualityRegression,
    Retired,
    TrafficShift,
    parse_scenario,
)


@pytest.mark.parametrize(
    ("text", "scenario"),
    [
        ("price-cut:at=1000,model=meta/llama:free,factor=0.1", PriceCut(at=1000, arm="meta/llama:free", factor=0.1)),
        ("price-cut:at=0,model=a,factor=2,told=no", PriceCut(at=0, arm="a", factor=2.0, told=False)),
        ("quality-regression:at=5,model=a,swap-with=b", QualityRegression(at=5, arm="a", swap_with="b")),
        (
            "new-arm:at=9,model=a,like=b,quality=0.8,cost-usd=1e-3,n-rounds=20,scored=5",
            NewArm(at=9, arm="a", like="b", scored=5, prior=ArmPrior(quality=0.8, cost_usd=1e-3, n_rounds=20.0)),
        ),
        ("outage:at=5,until=7,model=a", Outage(at=5, until=7, arm="a")),
        ("retired:at=5,model=a", Retired(at=5, arm="a")),
        ("traffic-shift:at=5", TrafficShift(at=5)),
        ("delay:mean-rounds=20,lost=0.1", Delay(mean_rounds=20.0, lost=0.1)),
    ],
)
def test_every_scenario_has_a_spelling(text, scenario):
    """What the command line takes is what Python makes."""
    assert parse_scenario(text) == scenario


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flood", "scenario must be one of"),
        ("outage:at=5,model=a", "needs until="),
        ("retired:model=a,at=soon", "at of retired must be a whole number"),
        ("retired:at=5,until=7", "takes KEY=VALUE"),
        ("retired:at", "takes KEY=VALUE"),
        ("price-cut:at=1,model=a,factor=0.5,told=maybe", "yes or no"),
        ("price-cut:at=1,model=a,factor=0", "factor of a price cut"),
        ("quality-regression:at=1,model=a,factor=2", "factor of a quality regression"),
        ("quality-regression:at=1,model=a", "needs a factor below 1"),
        ("outage:at=5,until=5,model=a", "until of an outage"),
        ("retired:at=-1,model=a", "at of an event"),
        ("new-arm:at=3,model=a,scored=4", "scored of a new arm"),
        ("new-arm:at=3,model=a,quality=4", "quality of an arm's prior"),
        ("traffic-shift:at=0", "at of a traffic shift"),
        ("delay:lost=1", "lost of a delay"),
        ("delay:mean-rounds=-1", "mean_rounds of a delay"),
    ],
)
def test_nonsense_is_refused_in_words(text, message):
    """Each rule has its error."""
    with pytest.raises(InvalidParameterError, match=message):
        parse_scenario(text)


def test_whom_a_new_arm_resembles_is_named():
    """A place would be another one once new arms are moved to the end."""
    with pytest.raises(InvalidParameterError, match="like"):
        NewArm(at=1, arm="a", prior=ArmPrior(like=0))
