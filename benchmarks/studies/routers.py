"""Routers from logs whose features are at hand."""

from __future__ import annotations

from pointsman.encode import default_encoder
from pointsman.logs import Labels, LoggedRounds, label_matrix
from pointsman.pipeline.learning import NuisanceModels, learn, learnable_rounds
from pointsman.router import Router
from pointsman.trade_off import TradeOff
from pointsman.types import Context


def fitted(
    log: LoggedRounds,
    labels: Labels | None,
    features: Context,
    *,
    correction: str,
    seed: int,
    gold: str = "gold",
) -> Router:
    """Return what `fit` returns, on features that are at hand."""
    learnable = learnable_rounds(log, label_matrix(log, labels, gold=gold))
    return learn(
        learnable,
        features[learnable.kept],
        method="auto",
        seed=seed,
        encoder=default_encoder(),
        n_folds=5,
        propensity="auto",
        options={},
        models=NuisanceModels(),
        trade_off=TradeOff(0.0),
        log_hash="",
        gold=gold,
        correction=correction,
    )
