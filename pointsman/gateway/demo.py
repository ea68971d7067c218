"""A router that improves while it serves: recorded outcomes behind the gateway, the official client before it."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pointsman.errors import InvalidParameterError, MissingDependencyError, StatisticalWarning
from pointsman.gateway.app import make_app
from pointsman.gateway.learn.worker import Learner
from pointsman.gateway.replayed import ReplayedModels, served
from pointsman.gateway.routing import RouterDecider, open_registry
from pointsman.gateway.serve import protocol
from pointsman.logs import FullFeedback, LoggedRounds
from pointsman.logs.store import SqliteStore, Writer
from pointsman.pipeline import fit, warm_start
from pointsman.registry import save_router
from pointsman.router import Router, describe_trade_off, json_number
from pointsman.trade_off import TradeOff
from pointsman.types import Context, PerArm, State

LOG = "gateway.parquet"
FLOOR, STRENGTH = 0.01, 0.6
SHARE_HELD_OUT = 1 / 3
"""Share of the prompts that are never asked: the truth is measured on them."""


@dataclass(frozen=True, kw_only=True)
class GatewayRow:
    """The router after so much feedback.

    Attributes:
        n_feedback: Answers it has learned from.
        value: Its true utility on prompts that are never asked.
        gain: The same less that of the best fixed model.
        earned: Mean utility of the requests since the row before; NaN in the first.
        earned_fixed: What the best fixed model would have earned on them.
        cost_usd: What they cost, by the gateway's count, in USD a request.
        shares: How many of them each model answered.
    """

    n_feedback: int
    value: float
    gain: float
    earned: float
    earned_fixed: float
    cost_usd: float
    shares: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class GatewayDemo:
    """What the demo of the gateway found.

    Attributes:
        quality_per_usd: The trade-off.
        best_fixed: The model of highest utility on the prompts that are never asked.
        oracle_gain: What the best model of every prompt gains on it.
        rows: The router as it learned.
        findings: The same in plain words.
        files: What was written.
    """

    quality_per_usd: float
    best_fixed: str
    oracle_gain: float
    rows: list[GatewayRow]
    findings: list[str]
    files: list[Path]

    def to_dict(self) -> State:
        """Return JSON-ready values."""
        return {
            "quality_per_usd": self.quality_per_usd,
            "best_fixed": self.best_fixed,
            "oracle_gain": self.oracle_gain,
            "rows": [
                {key: json_number(value) if isinstance(value, float) else value for key, value in vars(row).items()}
                for row in self.rows
            ],
            "findings": self.findings,
            "files": [str(path) for path in self.files],
        }


def telling_trade_off(table: FullFeedback) -> float:
    """Return the quality_per_usd at which choosing a model for each prompt gains most on always calling the same.

    It is among those at which two models are worth the same on average: there, no single model stands out.

    Raises:
        InvalidParameterError: The table has no cost, or no dearer model is better.
    """
    if table.cost_usd is None:
        raise InvalidParameterError(f"table must have cost_usd; {table.source} has none")
    quality, cost_usd = table.quality.mean(axis=0), table.cost_usd.mean(axis=0)
    best, most = 0.0, -np.inf
    for one in range(len(quality)):
        for other in range(len(quality)):
            if cost_usd[one] > cost_usd[other] and quality[one] > quality[other]:
                rate = float((quality[one] - quality[other]) / (cost_usd[one] - cost_usd[other]))
                utility = _utility(table, TradeOff(rate))
                gain = float(utility.max(axis=1).mean() - utility.mean(axis=0).max())
                if gain > most:
                    best, most = rate, gain
    if most == -np.inf:
        raise InvalidParameterError("table must hold a dearer model that is better: there is nothing to trade off")
    return best


def run_gateway_demo(
    log: LoggedRounds,
    table: FullFeedback,
    *,
    folder: Path,
    method: str = "auto",
    quality_per_usd: float | None = None,
    n_requests: int = 600,
    n_rows: int = 6,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> GatewayDemo:
    """Fit a router on a short log, serve it before the table's models, and let it learn from feedback.

    Requests and feedback go through the official client, over sockets, to a store and a registry on disk.

    Args:
        log: Few rounds, so that there is something to be learned; all models of the table are in it.
        table: Prompts that are not in the log, with the outcome of every model.
        folder: Where the gateway's own log is written: `gateway.parquet`.
        method: The method to fit with.
        quality_per_usd: The trade-off; `telling_trade_off` of the table where None.
        n_requests: Requests to send: no more than the prompts that are not held out.
        n_rows: Rows to report after the first, each after as many requests.
        seed: Of all draws.
        progress: Told each step before it starts, where given.

    Raises:
        InvalidParameterError: The table has too few prompts, or models that the log does not have.
        MissingDependencyError: The official client is not installed.
    """
    try:
        import openai
    except ImportError:
        raise MissingDependencyError("the gateway's demo needs the official client: pip install openai") from None
    tell = progress or (lambda _: None)
    if set(table.arms.names) != set(log.arms.names):
        raise InvalidParameterError(f"table must have the log's models {list(log.arms.names)}; got {table.arms.names}")
    order = np.random.default_rng(seed).permutation(len(table))
    n_held_out = round(SHARE_HELD_OUT * len(table))
    if not 0 < n_rows <= n_requests <= len(table) - n_held_out:
        raise InvalidParameterError(f"n_requests must be in [{n_rows}, {len(table) - n_held_out}]; got {n_requests}")
    rate = telling_trade_off(table) if quality_per_usd is None else quality_per_usd
    trade_off = TradeOff(rate)
    utility = _utility(table, trade_off)

    tell(f"fitting a router on {log.n_rounds} rounds")
    with warnings.catch_warnings():
        # Of so short a log every figure is in doubt, which is where the demo begins; findings name its judge.
        warnings.simplefilter("ignore", StatisticalWarning)
        router = warm_start(fit(log, method=method, seed=seed), log, exploration=STRENGTH, floor=FLOOR)
    truth = _Truth.of(table.take(np.sort(order[:n_held_out])), router, trade_off)
    value, unknown = truth.value(router), float("nan")
    rows = [
        GatewayRow(
            n_feedback=0,
            value=value,
            gain=value - truth.fixed_value,
            earned=unknown,
            earned_fixed=unknown,
            cost_usd=unknown,
            shares={},
        )
    ]
    models = ReplayedModels(table)
    with contextlib.ExitStack() as stack:
        tell("serving it")
        upstream = stack.enter_context(served(models))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        save_router(router, place / "router")
        settings = models.settings(
            upstream,
            # However busy the machine is: no decision here is late.
            router={"path": place / "router", "trade_off": {"quality_per_usd": rate}, "deadline_ms": 5000},
            exploration={"floor": FLOOR, "strength": STRENGTH},
        )
        registry = open_registry(settings)
        store = stack.enter_context(SqliteStore.open(place / "rounds.sqlite"))
        writer = stack.enter_context(contextlib.closing(Writer(store)))
        decider, learner = RouterDecider(registry, settings, seed=seed), Learner(registry, store, settings)
        app = make_app(settings, decider, writer)
        url = stack.enter_context(served(app, http=protocol(settings)))
        client = stack.enter_context(openai.OpenAI(base_url=f"{url}/v1", api_key="none"))
        n_asked = 0
        for places in np.array_split(order[n_held_out : n_held_out + n_requests], n_rows):
            tell(f"asking through the official client: {n_asked} of {n_requests}")
            prompts = [table.prompt[place] for place in places]
            answers = [_ask(client, prompt) for prompt in prompts]
            outcomes = np.array(
                [models.outcome(prompt, model) for prompt, (_, model, _) in zip(prompts, answers, strict=True)]
            )
            feedback = [
                {"round_id": round_id, "quality": quality, "source": table.quality_source}
                for (round_id, _, _), quality in zip(answers, outcomes[:, 0].tolist(), strict=True)
            ]
            client.post("/feedback", body={"feedback": feedback}, cast_to=object)
            # What was acknowledged is in the store, so the learner, a process of its own elsewhere, misses none of it.
            learner.step()
            decider.refresh()
            n_asked += len(prompts)
            served_by = [model for _, model, _ in answers]
            value = truth.value(registry.load(decider.version.partition("+")[0]))
            rows.append(
                GatewayRow(
                    n_feedback=n_asked,
                    value=value,
                    gain=value - truth.fixed_value,
                    earned=float(trade_off.utility(quality=outcomes[:, 0], cost_usd=outcomes[:, 1]).mean()),
                    earned_fixed=float(utility[places, table.arms.index(truth.best_fixed)].mean()),
                    cost_usd=float(np.mean([cost_usd for _, _, cost_usd in answers])),
                    shares={name: served_by.count(name) / len(served_by) for name in table.arms.names},
                )
            )
        folder.mkdir(parents=True, exist_ok=True)
        store.export_log(folder / LOG)
    return GatewayDemo(
        quality_per_usd=rate,
        best_fixed=truth.best_fixed,
        oracle_gain=truth.oracle_gain,
        rows=rows,
        findings=_findings(rows, truth, n_logged=log.n_rounds, judge=table.quality_source),
        files=[folder / LOG],
    )


def _ask(client: Any, prompt: str) -> tuple[str, str, float]:
    """Return the round, the model that answered and its cost in USD, as the gateway says them."""
    messages = [{"role": "user", "content": prompt}]
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=messages)
    headers = raw.headers
    return (
        headers["x-pointsman-round-id"],
        headers["x-pointsman-model"],
        float(headers["x-pointsman-cost-usd"]),
    )


def _utility(table: FullFeedback, trade_off: TradeOff) -> PerArm:
    """Return the utility of every model, (n_prompts, n_arms)."""
    if table.cost_usd is None:
        raise InvalidParameterError(f"table must have cost_usd; {table.source} has none")
    return trade_off.utility(quality=table.quality, cost_usd=table.cost_usd)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Truth:
    """What is known of the prompts that are never asked.

    Attributes:
        context: (n_prompts, n_features).
        utility: (n_prompts, n_arms), in the router's order of models.
        trade_off: At which.
        best_fixed: The model of highest mean utility.
    """

    context: Context
    utility: PerArm
    trade_off: TradeOff
    best_fixed: str

    @classmethod
    def of(cls, table: FullFeedback, router: Router, trade_off: TradeOff) -> _Truth:
        names = router.arms.names
        utility = _utility(table, trade_off)[:, [table.arms.index(name) for name in names]]
        best_fixed = names[int(utility.mean(axis=0).argmax())]
        return cls(context=router.context(table.prompt), utility=utility, trade_off=trade_off, best_fixed=best_fixed)

    @property
    def fixed_value(self) -> float:
        return float(self.utility.mean(axis=0).max())

    @property
    def oracle_gain(self) -> float:
        return float(self.utility.max(axis=1).mean()) - self.fixed_value

    def value(self, router: Router) -> float:
        return float((router.probabilities(self.context, self.trade_off) * self.utility).sum(axis=1).mean())


def _findings(rows: list[GatewayRow], truth: _Truth, *, n_logged: int, judge: str) -> list[str]:
    first, last = rows[0], rows[-1]
    judged = "" if judge == "gold" else f" (quality judged by {judge})"
    return [
        f"Fitted on {n_logged:,} logged rounds, {describe_trade_off(truth.trade_off)}{judged}, the router began "
        f"{_against(first.gain)} always calling {truth.best_fixed}.",
        f"After {last.n_feedback:,} requests with feedback it is {_against(last.gain)} it, on "
        f"{len(truth.context):,} prompts that were never asked; knowing the best model of each would gain "
        f"{100 * truth.oracle_gain:.1f}.",
    ]


def _against(gain: float) -> str:
    return f"{100 * abs(gain):.1f} utility points of 100 {'ahead of' if gain >= 0 else 'behind'}"
