"""Causal LLM routing: learn from one-arm logs which model should answer each prompt, and prove it first.

import pointsman as pm

log = pm.read_log("log.parquet")
router = pm.fit(log, seed=0)
decision = router.choose("prompt", quality_per_usd=50)
report = pm.evaluate(router, pm.read_log("held_out.parquet"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pointsman._version import __version__

if TYPE_CHECKING:
    from pointsman.errors import PointsmanError, StatisticalWarning
    from pointsman.live import LiveRouter
    from pointsman.logs import FullFeedback, Labels, LoggedRounds, read_full_feedback, read_labels, read_log, write_log
    from pointsman.pipeline import evaluate, evaluate_cross_fitted, fit, fuse_labels, score, simulate, warm_start
    from pointsman.registry import load_router, save_router
    from pointsman.router import Decision, Router
    from pointsman.trade_off import TradeOff

__all__ = [
    "Decision",
    "FullFeedback",
    "Labels",
    "LiveRouter",
    "LoggedRounds",
    "PointsmanError",
    "Router",
    "StatisticalWarning",
    "TradeOff",
    "__version__",
    "evaluate",
    "evaluate_cross_fitted",
    "fit",
    "fuse_labels",
    "load_router",
    "read_full_feedback",
    "read_labels",
    "read_log",
    "save_router",
    "score",
    "simulate",
    "warm_start",
    "write_log",
]

_HOMES = {
    "Decision": "router",
    "FullFeedback": "logs",
    "Labels": "logs",
    "LiveRouter": "live",
    "LoggedRounds": "logs",
    "PointsmanError": "errors",
    "Router": "router",
    "StatisticalWarning": "errors",
    "TradeOff": "trade_off",
    "evaluate": "pipeline",
    "evaluate_cross_fitted": "pipeline",
    "fit": "pipeline",
    "fuse_labels": "pipeline",
    "load_router": "registry",
    "read_full_feedback": "logs",
    "read_labels": "logs",
    "read_log": "logs",
    "save_router": "registry",
    "score": "pipeline",
    "simulate": "pipeline",
    "warm_start": "pipeline",
    "write_log": "logs",
}


def __getattr__(name: str) -> Any:
    # numpy, pyarrow and scikit-learn take a second to import: each name brings in its own module when it is used.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
