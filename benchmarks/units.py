"""One unit of work: one log drawn, every method learned from it, each scored on the prompts it did not hold."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.tables import EncodedTable
from pointsman.errors import StatisticalWarning
from pointsman.logs import FullFeedback, LoggedRounds, Simulated, simulate
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.ope import score_policy
from pointsman.pipeline.learning import NuisanceModels
from pointsman.pipeline.rounds import prompt_groups
from pointsman.policies import make
from pointsman.policies.base import greedy
from pointsman.scores import Scores, make_scores
from pointsman.trade_off import TradeOff
from pointsman.types import Context, PerArm

LAMBDAS_SCALED = (0.0, 0.05, 0.1, 0.2, 0.5)
"""Trade-offs, in units of 1 / mean cost of the table's dearest arm."""

SHARE_LOGGED = 0.6
FLOOR = 0.05

HINDSIGHT, ORACLE, CEILING = "best-single-hindsight", "oracle", "full-feedback-ridge"
REFERENCES = (HINDSIGHT, ORACLE, CEILING)
"""What no one-arm log can give: the best arm on the prompts scored, the best arm of each of them, and a ridge per arm
on every arm's outcome of the logged prompts."""

Choose = Callable[[TradeOff], PerArm]


@dataclass(frozen=True, kw_only=True, order=True)
class Unit:
    """What is drawn and learned from.

    Attributes:
        seed: Of the split, the draws, the folds and the methods. First, so that sorted units fill one seed after
            another and a run cut short is balanced.
        table: Name of the table.
        logger: `uniform` or `confounded`.
        signal: What of the prompt drives the confounded logger; `none` for the uniform one.
        strength: How much it leans; 0 for the uniform one.
        propensity: Whose propensities are used: `logged` (true) or `estimated`.
        n_rounds: Rounds learned from, a random part of the log; 0 is all of it.
    """

    seed: int
    table: str
    logger: Literal["uniform", "confounded"]
    signal: Literal["none", "pc", "length", "task"]
    strength: float
    propensity: Literal["logged", "estimated"]
    n_rounds: int = 0

    def __str__(self) -> str:
        logger = self.logger if self.logger == "uniform" else f"{self.signal} S={self.strength:g}"
        rounds = f" n={self.n_rounds}" if self.n_rounds else ""
        return f"{self.table} {logger} {self.propensity}{rounds} seed {self.seed}"


def draw(unit: Unit, encoded: EncodedTable) -> Simulated:
    """Return the unit's log and what it hides."""
    return simulate(
        encoded.table,
        logger=unit.logger,
        floor=FLOOR,
        share=SHARE_LOGGED,
        strength=unit.strength,
        signal="pc" if unit.signal == "none" else unit.signal,
        seed=unit.seed,
        features=encoded.features,
    )


def run_unit(unit: Unit, encoded: EncodedTable, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row a method and trade-off: `value, quality, cost_usd` on the prompts not logged, and `fit_s`.

    All methods learn from the same scores, hence from the same nuisances and the same revealed outcomes.
    """
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticalWarning)
        simulated = draw(unit, encoded)
        rounds = _rounds(unit, simulated)
        log = simulated.log.take(rounds)
        train = encoded.features[simulated.train_index[rounds]]
        test = encoded.features[simulated.rest_index]
        # As in `pointsman.fit`: an arm that never served is none a router can choose.
        columns = np.unique(log.arm)
        scores = _scores(log, train, columns, unit=unit) if set(methods) - set(REFERENCES) else None
        rows = []
        for method in methods:
            began = time.perf_counter()
            choose = (
                _reference(method, simulated.truth.take(rounds), simulated.rest, train=train, test=test)
                if method in REFERENCES
                else _learned(
                    method,
                    scores,
                    train=train,
                    test=test,
                    columns=columns,
                    shape=simulated.rest.quality.shape,
                    seed=unit.seed,
                )
            )
            fit_s = time.perf_counter() - began
            rows += [
                {
                    "table": unit.table,
                    "logger": unit.logger,
                    "signal": unit.signal,
                    "strength": unit.strength,
                    "propensity": unit.propensity,
                    "seed": unit.seed,
                    "method": method,
                    "lambda_scaled": scaled,
                    **_true_value(choose, simulated.rest, trade_off),
                    "fit_s": fit_s,
                    "n_rounds": log.n_rounds,
                }
                for scaled, trade_off in trade_offs(encoded.table)
            ]
    return rows


def trade_offs(table: FullFeedback) -> list[tuple[float, TradeOff]]:
    """Return each trade-off, scaled and in quality points per USD; quality alone where the table has no cost."""
    if table.cost_usd is None:
        return [(0.0, TradeOff(0.0))]
    dearest = float(table.cost_usd.mean(axis=0).max())
    return [(scaled, TradeOff(scaled / dearest)) for scaled in LAMBDAS_SCALED]


def _rounds(unit: Unit, simulated: Simulated) -> NDArray[np.int64]:
    n_rounds = simulated.log.n_rounds
    if not unit.n_rounds:
        return np.arange(n_rounds)
    # Smaller logs are parts of larger ones, so that the growth is not blurred by which prompts were drawn.
    return np.sort(np.random.default_rng(unit.seed).permutation(n_rounds)[: unit.n_rounds])


def _scores(log: LoggedRounds, context: Context, columns: NDArray[np.int64], *, unit: Unit) -> Scores:
    # The regressions `pointsman.fit` uses where none is named.
    scores, _ = make_scores(
        context=context,
        arm=np.searchsorted(columns, log.arm),
        quality=log.quality,
        cost_usd=log.cost_usd,
        logged_propensity=log.propensity,
        eligible=log.eligible[:, columns],
        outcome_model=NuisanceModels().outcome_or_default,
        propensity=unit.propensity,
        seed=unit.seed,
        groups=prompt_groups(log),
    )
    return scores


def _learned(
    method: str,
    scores: Scores | None,
    *,
    train: Context,
    test: Context,
    columns: NDArray[np.int64],
    shape: tuple[int, ...],
    seed: int,
) -> Choose:
    assert scores is not None
    policy = make(method, seed=seed).fit(train, scores)

    def choose(trade_off: TradeOff) -> PerArm:
        probabilities = np.zeros(shape)
        probabilities[:, columns] = policy.probabilities(test, trade_off)
        return probabilities

    return choose


def _reference(method: str, logged: FullFeedback, rest: FullFeedback, *, train: Context, test: Context) -> Choose:
    quality, cost_usd = rest.quality, rest.cost_usd
    if method == CEILING:
        quality = _ridge(train, logged.quality, test)
        cost_usd = None if logged.cost_usd is None else _ridge(train, logged.cost_usd, test)
    costs = np.full_like(quality, np.nan) if cost_usd is None else cost_usd

    def choose(trade_off: TradeOff) -> PerArm:
        utility = trade_off.utility(quality=quality, cost_usd=costs)
        if method == HINDSIGHT:
            utility = np.tile(utility.mean(axis=0), (len(utility), 1))
        return greedy(utility, cost_usd=cost_usd)

    return choose


def _ridge(train: Context, outcomes: PerArm, test: Context) -> PerArm:
    only = np.zeros(len(train), dtype=np.int64)
    fitted = [PerArmRidge().fit(train, column, arm=only, n_arms=1) for column in outcomes.T]
    return np.column_stack([model.predict(test)[:, 0] for model in fitted])


def _true_value(choose: Choose, rest: FullFeedback, trade_off: TradeOff) -> dict[str, float]:
    cost_usd = np.full_like(rest.quality, np.nan) if rest.cost_usd is None else rest.cost_usd
    true = score_policy(quality=rest.quality, cost_usd=cost_usd, target_probs=choose(trade_off), trade_off=trade_off)
    return {"value": true.value, "quality": true.quality, "cost_usd": true.cost_usd}
