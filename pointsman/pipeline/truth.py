"""A router on full feedback."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pointsman.errors import InvalidParameterError, LabelWarning, StatisticalWarning
from pointsman.logs import FullFeedback, LoggedRounds
from pointsman.ope import score_policy
from pointsman.pipeline.rounds import default_trade_offs, encode_prompts, json_ready, judged, listed
from pointsman.router import Router
from pointsman.trade_off import TradeOff
from pointsman.types import State


@dataclass(frozen=True, kw_only=True)
class TrueScore:
    """A router's true value on full feedback.

    Attributes:
        rows: One a trade-off: `quality_per_usd, value, quality, cost_usd, oracle_value, best_single_model,
            best_single_value, regret, share_of_gap_closed`.
        diagnostics: Prompts scored and seen in training, and models left out because table or router lacks them.
    """

    rows: list[State]
    diagnostics: State

    def row(self, quality_per_usd: float) -> State:
        """Return the row of a trade-off.

        Raises:
            InvalidParameterError: There is none.
        """
        for row in self.rows:
            if row["quality_per_usd"] == quality_per_usd:
                return row
        raise InvalidParameterError(f"rows must hold quality_per_usd {quality_per_usd}; they do not")

    def to_dict(self) -> State:
        """Return JSON-ready values: null for NaN, "inf" for infinity."""
        return {"rows": json_ready(self.rows), "diagnostics": json_ready(self.diagnostics)}

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def score(
    router: Router,
    table: FullFeedback,
    *,
    quality_per_usd: Sequence[float] | float | None = None,
    show_progress: bool = False,
) -> TrueScore:
    """Return a router's true value, regret and share of the gap closed, where every outcome is known.

    Router, best single model and oracle all choose among the models that both router and table have; those left out
    stand in the diagnostics.

    Args:
        router: The router.
        table: The outcome of every arm for every prompt.
        quality_per_usd: Trade-offs; `default_trade_offs` of the table where None.
        show_progress: Whether to show a bar while prompts are encoded.

    Raises:
        InvalidParameterError: Router and table share no model, cost counts and the table has none, or the router was
            fitted on embeddings, which a table does not have.

    Warns:
        StatisticalWarning: The router was fitted on some of the prompts, or quality is a judge's.
    """
    common = [name for name in table.arms.names if name in router.arms]
    if not common:
        raise InvalidParameterError(
            f"table must hold at least one of the router's models {list(router.arms.names)}; "
            f"got {list(table.arms.names)}"
        )
    if router.encoder is None:
        raise InvalidParameterError(
            "router must have been fitted on prompts to be scored on a table; this one was fitted on embeddings"
        )
    columns = table.arms.indices(common)
    quality = table.quality[:, columns]
    cost_usd = np.full_like(quality, np.nan) if table.cost_usd is None else table.cost_usd[:, columns]
    lambdas = default_trade_offs(cost_usd.mean(axis=0)) if quality_per_usd is None else listed(quality_per_usd)
    trade_offs = [TradeOff(value) for value in lambdas]
    if table.cost_usd is None and any(trade_off.quality_per_usd > 0 for trade_off in trade_offs):
        raise InvalidParameterError(
            f"quality_per_usd must be 0 on a table without cost_usd; got {lambdas}: name the table's cost column"
        )
    n_seen = _n_seen(router, table)
    if n_seen:
        warnings.warn(
            f"the router was fitted on {n_seen} of the table's {len(table)} prompts: on these its value is not that of "
            "a router that sees them first; score it on others",
            StatisticalWarning,
            stacklevel=2,
        )
    if table.quality_source != "gold":
        warnings.warn(judged(table.quality_source), LabelWarning, stacklevel=2)
    context = encode_prompts(router.encoder, table.prompt, show_progress=show_progress)
    place = router.arms.indices(common)
    eligible = np.zeros((len(table), len(router.arms)), dtype=np.bool_)
    eligible[:, place] = True
    rows: list[State] = []
    for trade_off in trade_offs:
        probabilities = router.probabilities(context, trade_off, eligible)[:, place]
        true = score_policy(quality=quality, cost_usd=cost_usd, target_probs=probabilities, trade_off=trade_off)
        rows.append(
            {
                "quality_per_usd": true.quality_per_usd,
                "value": true.value,
                "quality": true.quality,
                "cost_usd": true.cost_usd,
                "oracle_value": true.oracle_value,
                "best_single_model": common[true.best_single],
                "best_single_value": true.best_single_value,
                "regret": true.regret,
                "share_of_gap_closed": true.share_of_gap_closed,
            }
        )
    return TrueScore(
        rows=rows,
        diagnostics={
            "n_prompts": len(table),
            "n_dropped": table.n_dropped,
            "n_seen_in_training": n_seen,
            "quality_source": table.quality_source,
            "models": common,
            "models_not_in_table": [name for name in router.arms.names if name not in common],
            "models_not_in_router": [name for name in table.arms.names if name not in common],
        },
    )


def _n_seen(router: Router, table: FullFeedback) -> int:
    as_log = LoggedRounds.from_columns(
        round_id=table.query_id,
        prompt=table.prompt,
        model=[table.arms.names[0]] * len(table),
        quality=table.quality[:, 0],
    )
    return int(np.isin(as_log.identity, router.training_rounds).sum())
