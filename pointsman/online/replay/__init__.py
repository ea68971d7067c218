"""Replay: an online policy on a table of full feedback as a stream, through changing prices, qualities and arms."""

from pointsman.online.replay.comparison import Comparison, compare
from pointsman.online.replay.play import Pacer, Replayed, policy_value, replay
from pointsman.online.replay.scenarios import (
    SCENARIOS,
    Delay,
    NewArm,
    Outage,
    PriceCut,
    QualityRegression,
    Retired,
    Scenario,
    TrafficShift,
    parse_scenario,
)
from pointsman.online.replay.stream import NEVER, Outcomes, Stream, stream

__all__ = [
    "NEVER",
    "SCENARIOS",
    "Comparison",
    "Delay",
    "NewArm",
    "Outage",
    "Outcomes",
    "Pacer",
    "PriceCut",
    "QualityRegression",
    "Replayed",
    "Retired",
    "Scenario",
    "Stream",
    "TrafficShift",
    "compare",
    "parse_scenario",
    "policy_value",
    "replay",
    "stream",
]
