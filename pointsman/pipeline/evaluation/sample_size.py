"""How many more rounds, or how much exploration, tell two policies apart."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pointsman.errors import InvalidParameterError, SmallSampleWarning
from pointsman.ope import contrast_noise, detectable_effect, rounds_needed
from pointsman.pipeline.evaluation.compare import weights
from pointsman.pipeline.evaluation.evidence import Evidence
from pointsman.pipeline.rounds import json_ready
from pointsman.types import State

EXPLORATIONS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of requests that could go to a model drawn evenly, beyond what the log's own policy explores."""


@dataclass(frozen=True, kw_only=True)
class Power:
    """What it takes to tell a policy from another.

    Attributes:
        policy: The one.
        against: The other.
        level: One minus the size of the two-sided test.
        power: Probability of telling.
        rows: One a trade-off, exploration and effect: `quality_per_usd, exploration, effect, standard_deviation` (of
            one round's contribution), `n_rounds` (of this log), `n_needed`, `n_more`, and `detectable`, the smallest
            difference that this log's number of rounds would tell.
    """

    policy: str
    against: str
    level: float
    power: float
    rows: list[State]

    def to_dict(self) -> State:
        """Return JSON-ready values."""
        values: State = json_ready(asdict(self))
        return values

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def power_of(
    evidence: Evidence,
    *,
    policy: str,
    against: str,
    effects: Sequence[float],
    power: float,
    explorations: Sequence[float] = EXPLORATIONS,
) -> Power:
    """Return what it takes, from evidence; see `Power`.

    Raises:
        InvalidParameterError: There is no effect, or the opponent is the log's own policy.

    Warns:
        SmallSampleWarning: Too few rounds carry the difference for its noise to be known.
    """
    if not effects:
        raise InvalidParameterError("effect must hold at least one difference; got none")
    if evidence.policies[policy].is_logging or evidence.policies[against].is_logging:
        raise InvalidParameterError(
            "power compares policies that the log must be reweighted for; the log's own policy needs no more "
            "exploration: compare with a router, 'always MODEL' or 'best-single'"
        )
    rows: list[State] = []
    for trade_off in evidence.trade_offs:
        known = evidence.known("utility", trade_off=trade_off)
        outcome, predicted = evidence.outcome("utility", trade_off)
        noise = contrast_noise(
            arm=evidence.scores.arm[known],
            outcome=outcome[known],
            propensity=evidence.scores.propensity[known],
            eligible=evidence.scores.eligible[known],
            predicted=predicted[known],
            target_probs=evidence.target_probs(policy, trade_off)[known],
            baseline_probs=evidence.target_probs(against, trade_off)[known],
        )
        n_rounds = int(known.sum())
        verdict = evidence.gate(
            evidence.estimate(policy, trade_off, "utility", rows=known)
            - evidence.estimate(against, trade_off, "utility", rows=known),
            weight=(weights(evidence, policy, trade_off) - weights(evidence, against, trade_off))[known],
            rows=known,
            outcome="utility",
            mean_weight=0.0,
        )
        if verdict.interval != "normal":
            warnings.warn(
                f"the noise at quality_per_usd {trade_off.quality_per_usd:.4g} is itself told by few rounds "
                f"({verdict.reasons[0]}): the rounds needed may be far more",
                SmallSampleWarning,
                stacklevel=3,
            )
        for exploration in explorations:
            deviation = noise.standard_deviation(exploration=exploration)
            for effect in effects:
                needed = rounds_needed(standard_deviation=deviation, effect=effect, level=evidence.level, power=power)
                rows.append(
                    {
                        "quality_per_usd": trade_off.quality_per_usd,
                        "exploration": exploration,
                        "effect": effect,
                        "standard_deviation": deviation,
                        "n_rounds": n_rounds,
                        "n_needed": needed,
                        "n_more": max(0, needed - n_rounds),
                        "detectable": detectable_effect(
                            standard_deviation=deviation, n_rounds=n_rounds, level=evidence.level, power=power
                        ),
                    }
                )
    return Power(policy=policy, against=against, level=evidence.level, power=power, rows=rows)
