"""The router in the gateway: any router of a registry decides, with exact propensities, within a millisecond.

What decides is a folder of files. The database is not asked, so losing it changes nothing here; and what a learner
writes to the folder is taken over between two requests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointsman._version import __version__
from pointsman.arms import ArmSet
from pointsman.encode import default_encoder
from pointsman.errors import InvalidRouterError
from pointsman.gateway.decide import Decided, NoEligibleModelError, RoundPolicy, RouteRequest, TradeOffAsked
from pointsman.gateway.live import log
from pointsman.online.bandit import PRIOR_QUALITY, PooledThompson
from pointsman.online.budget import Pacer
from pointsman.online.draw import draw, explored
from pointsman.online.method import Online
from pointsman.registry import load_router
from pointsman.router import FitFacts, Router, describe_trade_off, usd
from pointsman.trade_off import TradeOff
from pointsman.versions import Registry, Stamp, Version

if TYPE_CHECKING:
    from pointsman.gateway.settings import Settings
    from pointsman.gateway.settings.prices import ModelFacts

USUAL_TOKENS_IN, USUAL_TOKENS_OUT = 500, 300
"""A usual call: what prices are compared by, and expected to cost before any call was seen."""
MOST_SESSIONS = 100_000
MOST_CONTEXTS = 4096
MOST_MASKS = 4096

Vector = NDArray[np.float64]


class Ready:
    """A router, ready to decide.

    Args:
        router: Of any method.
        version: What is logged of it.
        floor: Probability that is spread evenly over the eligible models, in [0, 1).
        strength: Of the exploration of a router that learns.
    """

    def __init__(self, router: Router, version: str, *, floor: float, strength: float) -> None:
        self.router, self.version, self.floor = router, version, floor
        # None where the policy says nothing of its own uncertainty: the floor is then all that is explored.
        self.bandit: PooledThompson | None = None
        if isinstance(router.policy, Online) and isinstance(router.policy.learner, PooledThompson):
            self.bandit = router.policy.learner
            self.bandit.floor, self.bandit.exploration = floor, strength
        if router.encoder is None:
            raise InvalidRouterError(
                f"version {version} must have an encoder to decide on prompts; it was fitted on embeddings"
            )
        self.fingerprint = str(router.encoder.describe()["fingerprint"])
        self.knows_cost = self.bandit is not None or all(
            cost is not None for cost in router.facts.mean_cost_usd.values()
        )
        self._column = {arm.name: t for t, arm in enumerate(router.arms) if not arm.is_retired}
        self._masks: dict[tuple[str, ...], tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.bool_]]] = {}

    def probabilities(
        self, context: NDArray[np.float32], trade_off: TradeOff, eligible: tuple[str, ...]
    ) -> tuple[Vector, float]:
        """Return the probability of each eligible model, and the regret expected of a draw from them.

        Models that the router does not know share in the floor only: with m of K unknown, each of them has floor / K,
        and what the router says of the others is scaled by 1 - m floor / K. Where it knows none, all are as likely.
        The regret is that against the best model it knows, in quality points; NaN where it does not learn, or where
        only cost counts.
        """
        mask, columns, known = self._mask(eligible)
        if not columns.size:
            return np.full(len(eligible), 1 / len(eligible)), math.nan
        found = np.zeros(len(eligible))
        if self.bandit is None:
            found[known] = self.router.policy.probabilities(context[None], trade_off, mask[None])[0][columns]
            return explored(found, eligible=np.ones(len(eligible), dtype=np.bool_), floor=self.floor), math.nan
        said, gap = self.bandit.probabilities_and_gaps(context.astype(np.float64), trade_off, mask)
        regret = math.nan if math.isinf(trade_off.quality_per_usd) else float(said.dot(gap))
        if columns.size == len(eligible):
            return said[columns], regret
        of_unknown = self.floor / len(eligible)
        found[~known] = of_unknown
        found[known] = said[columns] * (1 - of_unknown * (len(eligible) - columns.size))
        return found, regret

    def expected(self, context: NDArray[np.float32], eligible: tuple[str, ...]) -> tuple[Vector, Vector] | None:
        """Return quality and cost in USD that each eligible model is expected to have, NaN where not known.

        None for a method that predicts neither.
        """
        _, columns, known = self._mask(eligible)
        quality, cost_usd = np.full((2, len(eligible)), np.nan)
        if self.bandit is not None:
            qualities, costs = self.bandit.expected(context.astype(np.float64))
        else:
            predicted = self.router.policy.predict(context[None])
            if predicted is None:
                return None
            factors = self.router.arms.cost_factors
            qualities, costs = predicted[0][0], predicted[1][0] * factors
        quality[known], cost_usd[known] = qualities[columns], costs[columns]
        return quality, cost_usd

    def _mask(self, eligible: tuple[str, ...]) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.bool_]]:
        """Return which arms are eligible, the column of each model that is known, and which are."""
        found = self._masks.get(eligible)
        if found is None:
            known = np.array([name in self._column for name in eligible], dtype=np.bool_)
            columns = np.array([self._column[name] for name in eligible if name in self._column], dtype=np.int64)
            mask = np.zeros(len(self.router.arms), dtype=np.bool_)
            mask[columns] = True
            if len(self._masks) >= MOST_MASKS:
                self._masks.clear()
            found = self._masks[eligible] = mask, columns, known
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Routers:
    """What decides, at one moment."""

    deciding: Ready
    canary: Ready | None
    shadow: Ready | None
    stamp: Stamp


@dataclass(slots=True)
class Session:
    """A conversation.

    Attributes:
        model: That answered last.
        n_tokens: Of the conversation then, which its provider may have cached.
        at: When, in s.
    """

    model: str
    n_tokens: int
    at: float


class RouterDecider:
    """Decides by the routers of a registry.

    The trade-off is the request's own, else the configured one, else the router's; a budget may raise it. What is drawn
    from is the policy's probabilities over the eligible models, above the floor of the settings; a canary's share of
    it is the canary's: a model's propensity is then

        share p_canary + (1 - share) p.

    A conversation stays with its model while no other is expected to gain more utility than lambda times what leaving
    costs: what the provider still has cached of it, at the difference of the prices. This looks only at what came
    before the request, so it is part of the probability with which the model was chosen: a round that stays has
    propensity one among all that were eligible, and policy `sticky`. Whoever evaluates another policy drops these
    rounds, in which no other model was ever possible; those that do not stay are drawn as any other.

    A canary or shadow that fails is left out, and changes nothing.

    Args:
        registry: Has a version that decides.
        settings: Checked ones.
        before: What decided until now: its conversations and, where the budget is the same, its pacer go on.
        seed: Of the draws; a new one each time where None.
        clock: Time in s.

    Raises:
        InvalidRouterError: No version decides, or its router cannot be loaded.
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        *,
        before: RouterDecider | None = None,
        seed: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry, self.settings = registry, settings
        self.models = tuple(model.name for model in settings.chat_models)
        self.pacer = make_pacer(settings)
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        if before is not None:
            self._sessions = before._sessions
            if before.settings.budget == settings.budget:
                self.pacer = before.pacer
        # Two, so that what a shadow draws changes no decision.
        self._rng, self._shadow_rng = np.random.default_rng(seed).spawn(2)
        self._clock = clock
        self._contexts: OrderedDict[tuple[str, bytes], NDArray[np.float32]] = OrderedDict()
        self._doubted: set[str] = set()
        self._routers = self._load()

    @property
    def version(self) -> str:
        """What decides now."""
        return self._routers.deciding.version

    def decide(self, request: RouteRequest) -> Decided:
        """Draw a model from exactly the probabilities that are stated.

        Raises:
            NoEligibleModelError: No model is eligible.
            InvalidParameterError: The request's trade-off breaks its rule.
        """
        routers = self._routers
        ready = routers.deciding
        eligible = self.models if request.eligible is None else request.eligible
        if not eligible:
            raise NoEligibleModelError(f"eligible_models must name at least one of {list(self.models)}; got none")
        context = self._context(ready, request.prompt)
        trade_off = self._trade_off(request, ready)
        policy: RoundPolicy = "router"
        version = ready.version
        if self._stays(request, ready, context, trade_off, eligible):
            kept = self._sessions[request.session_id or ""].model
            probabilities, regret = np.array([float(name == kept) for name in eligible]), math.nan
            arm, policy = eligible.index(kept), "sticky"
        else:
            probabilities, regret = ready.probabilities(context, trade_off, eligible)
            share = self.settings.learn.canary_share
            others = self._aside(routers.canary, request, trade_off, eligible) if share > 0 else None
            drawn_from = probabilities
            if others is not None and routers.canary is not None:
                if self._rng.random() < share:
                    drawn_from, policy, version = others, "canary", routers.canary.version
                probabilities = share * others + (1 - share) * probabilities
                regret = math.nan  # A canary is there to be tried, not to be as good.
            arm = draw(drawn_from, self._rng)
        would = self._aside(routers.shadow, request, trade_off, eligible)
        return Decided(
            model=eligible[arm],
            propensity=float(probabilities[arm]),
            probabilities=dict(zip(eligible, probabilities.tolist(), strict=True)),
            eligible=eligible,
            trade_off=trade_off,
            router_version=version,
            context=context,
            policy=policy,
            reasons=lambda: _reasons(ready, context, trade_off, eligible, arm, probabilities, policy),
            shadow_model=None if would is None else eligible[draw(would, self._shadow_rng)],
            shadow_version=None if would is None or routers.shadow is None else routers.shadow.version,
            expected_regret=regret,
        )

    def observe(self, request: RouteRequest, *, model: str, cost_usd: float, n_tokens: int = 0) -> None:
        """Take in what came of a request that was routed: the budget is held by it, and its conversation stays with it.

        Args:
            request: As it was decided.
            model: The model that answered.
            cost_usd: What it cost; NaN where that is not known.
            n_tokens: Of the request and the answer.
        """
        if self.pacer is not None:
            self.pacer.observe(cost_usd, now=self._clock())
        if request.session_id is not None and self.settings.session.ttl_s > 0:
            self._sessions.pop(request.session_id, None)
            while len(self._sessions) >= MOST_SESSIONS:
                self._sessions.popitem(last=False)
            self._sessions[request.session_id] = Session(model, n_tokens, self._clock())

    def gauges(self) -> dict[str, float]:
        """Return how the budget is held, for whoever watches; nothing where there is none."""
        if self.pacer is None:
            return {}
        return {
            "budget_usd_per_request": self.pacer.target_usd,
            "budget_debt_usd": self.pacer.report().debt_usd,
            "lambda_quality_per_usd": self.pacer.quality_per_usd,
        }

    def refresh(self) -> bool:
        """Take over what has changed in the registry, and return whether anything has; from any thread.

        What cannot be loaded leaves what decided until now.
        """
        try:
            if self.registry.stamp() == self._routers.stamp:
                return False
            self._routers = self._load()
        except Exception as error:
            if str(error) not in self._doubted:
                self._doubted.add(str(error))
                log.error("the registry has changed, and the old router stays: %s", error)
            return False
        return True

    def _load(self) -> Routers:
        registry, asked = self.registry, self.settings.router.version
        # Taken before reading: what is written meanwhile is seen as a change.
        stamp = registry.stamp()
        roles = registry.roles()
        version = roles.deciding if asked is None else registry.resolve(asked)
        if version is None:
            raise InvalidRouterError(f"{registry.folder} must have a version that decides; got none: promote one")
        is_fixed = asked is not None or roles.pinned is not None

        def load(name: str, *, learned: bool) -> Ready:
            router = at_prices(registry.load(name, learned=learned), roles.versions[name], self.settings)
            told = router.policy.learned_through if isinstance(router.policy, Online) else 0
            exploration = self.settings.exploration
            label = f"{name}+{told}" if told else name
            return Ready(router, label, floor=exploration.floor, strength=exploration.strength)

        def aside(name: str | None) -> Ready | None:
            if name is None or name == version:
                return None
            try:
                return load(name, learned=True)
            except InvalidRouterError as error:
                log.error("version %s is left out: %s", name, error)
                return None

        deciding = load(version, learned=not is_fixed)
        self._asked(None, deciding)  # Settings that do not go with the router are told now, not to every client.
        return Routers(
            deciding=deciding,
            canary=aside(roles.canary),
            shadow=aside(roles.shadow),
            stamp=stamp,
        )

    def _context(self, ready: Ready, prompt: str) -> NDArray[np.float32]:
        key = ready.fingerprint, hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        context = self._contexts.get(key)
        if context is None:
            context = np.asarray(ready.router.context([prompt])[0], dtype=np.float32)
            while len(self._contexts) >= MOST_CONTEXTS:
                self._contexts.popitem(last=False)
            self._contexts[key] = context
        else:
            self._contexts.move_to_end(key)
        return context

    def _trade_off(self, request: RouteRequest, ready: Ready) -> TradeOff:
        base = self._asked(request.trade_off, ready)
        if self.pacer is None or not ready.knows_cost:
            return base
        return self.pacer.trade_off(base, now=self._clock(), counted=not request.is_dry)

    def _asked(self, by_client: TradeOffAsked | None, ready: Ready) -> TradeOff:
        asked = by_client or self.settings.router.trade_off
        return ready.router.trade_off() if asked is None else ready.router.trade_off(**{asked.spelling: asked.value})

    def _aside(
        self, ready: Ready | None, request: RouteRequest, trade_off: TradeOff, eligible: tuple[str, ...]
    ) -> Vector | None:
        """Return the probabilities of a router on trial; None where there is none, or it fails."""
        if ready is None:
            return None
        try:
            return ready.probabilities(self._context(ready, request.prompt), trade_off, eligible)[0]
        except Exception as error:
            if ready.version not in self._doubted:
                self._doubted.add(ready.version)
                log.error("version %s fails, and is left out: %s", ready.version, type(error).__name__)
            return None

    def _stays(
        self,
        request: RouteRequest,
        ready: Ready,
        context: NDArray[np.float32],
        trade_off: TradeOff,
        eligible: tuple[str, ...],
    ) -> bool:
        session = None if request.session_id is None else self._sessions.get(request.session_id)
        if session is None or session.model not in eligible:
            return False
        age_s = self._clock() - session.at
        if age_s > self.settings.session.ttl_s:
            return False
        expected = ready.expected(context, eligible)
        if expected is None:
            return True
        utility = trade_off.utility(quality=expected[0], cost_usd=expected[1])
        own = utility[eligible.index(session.model)]
        if math.isnan(own):  # Nothing is known of it that could be compared.
            return True
        gain = float(np.nanmax(utility)) - float(own)
        leaving_usd = self._leaving_usd(session, request.n_tokens_estimate, age_s)
        rate = trade_off.quality_per_usd
        return gain <= (leaving_usd if math.isinf(rate) else rate * leaving_usd)

    def _leaving_usd(self, session: Session, n_tokens: int, age_s: float) -> float:
        """Return what it costs to leave a conversation's model, in USD."""
        asked = self.settings.session
        if asked.switching_cost_usd is not None:
            return asked.switching_cost_usd
        facts = self.settings.facts.get(session.model)
        if facts is None or age_s > asked.cache_ttl_s:
            return 0.0
        n_cached = min(session.n_tokens, n_tokens)
        rates = facts.price.rates(input_tokens=n_tokens)
        return n_cached * max(rates.input_usd_per_mtok - rates.cached_input_usd_per_mtok, 0.0) / 1e6


class Routing:
    """Makes what decides of the settings, and keeps it up with the registry: for `serve`, as `make_decider`.

    Args:
        interval_s: Time between two looks at the registry, in s.
    """

    def __init__(self, *, interval_s: float = 1.0) -> None:
        self.interval_s = interval_s
        self._last: RouterDecider | None = None

    def __call__(self, settings: Settings) -> RouterDecider:
        """Return the decider of the settings, whose conversations and budget are those of the last one.

        Raises:
            InvalidRouterError: There is a router, and it cannot be loaded.
        """
        is_first = self._last is None
        self._last = RouterDecider(open_registry(settings), settings, before=self._last)
        if is_first:
            threading.Thread(target=_follow, args=(weakref.ref(self), self.interval_s), daemon=True).start()
        return self._last

    def refresh(self) -> None:
        """Take over what has changed."""
        if self._last is not None:
            self._last.refresh()


def _follow(routing: weakref.ref[Routing], interval_s: float) -> None:
    # Loading takes tens of milliseconds: in a thread of its own, no request waits for it.
    while (alive := routing()) is not None:
        alive.refresh()
        del alive
        time.sleep(interval_s)


def open_registry(settings: Settings) -> Registry:
    """Return the registry of the settings, in which a version decides.

    The router of `router.path` is promoted when it is new to the registry; where there is none at all, one that has
    learned nothing yet decides.

    Raises:
        InvalidRouterError: The router, or the registry, cannot be read or written.
    """
    registry = Registry(registry_folder(settings))
    roles = registry.roles()
    path = settings.router.path
    if path is not None:
        router = load_router(path)
        then = {
            name: cost_usd / factor
            for name, factor in zip(router.arms.names, router.arms.cost_factors.tolist(), strict=True)
            if (cost_usd := usual_usd(settings).get(name)) is not None and factor > 0
        }
        version = registry.add(router, why=f"router.path {path}", prices_usd=then)
        if version not in roles.versions:
            registry.promote(version, why=f"router.path {path}")
    elif roles.deciding is None:
        version = registry.add(
            first_router(settings), why="nothing has been learned yet", prices_usd=usual_usd(settings)
        )
        registry.promote(version, why="nothing has been learned yet")
    return registry


def registry_folder(settings: Settings) -> Path:
    """Return where routers are kept: `router.registry`; beside the router or the store where that is not given."""
    if settings.router.registry is not None:
        return settings.router.registry
    if settings.router.path is not None:
        return settings.router.path.with_name(f"{settings.router.path.name}.registry")
    scheme, _, path = settings.store.url.get_secret_value().partition(":///")
    return Path(f"{path}.routers" if scheme == "sqlite" else "pointsman.routers")


def first_router(settings: Settings) -> Router:
    """Return a router that knows the chat models and their prices, and goes on to learn the rest."""
    encoder = default_encoder()
    costs = usual_usd(settings)
    arms = ArmSet.named(model.name for model in settings.chat_models)
    known = {name: costs.get(name) for name in arms.names}
    learner = PooledThompson(
        n_arms=len(arms),
        n_features=encoder.n_features,
        exploration=settings.exploration.strength,
        floor=settings.exploration.floor,
        cost_usd=[math.nan if cost is None else cost for cost in known.values()],
    )
    facts = FitFacts(
        method=Online.name,
        seed=0,
        options={},
        n_folds=0,
        n_features=encoder.n_features,
        log_hash="",
        n_rounds=0,
        n_outcomes=0,
        n_fallback=0,
        n_unlearnable=0,
        unlearnable_models=[],
        propensities="logged",
        quality_sources=[],
        n_rounds_by_model=dict.fromkeys(arms.names, 0),
        logged_cost_usd=dict.fromkeys(arms.names),
        mean_quality=dict.fromkeys(arms.names, PRIOR_QUALITY),
        mean_cost_usd=known,
        version=__version__,
    )
    dearest = max(costs.values(), default=0.0)
    return Router(
        encoder=encoder,
        policy=Online(learner),
        arms=arms,
        cost_scale_usd=dearest if dearest > 0 else None,
        facts=facts,
        training_rounds=np.empty(0, dtype=np.uint64),
    )


def usual_usd(settings: Settings) -> dict[str, float]:
    """Return what a usual call of each chat model costs today, in USD."""
    facts: Mapping[str, ModelFacts] = settings.facts
    costs = {
        model.name: facts[model.name].price.cost_usd(input_tokens=USUAL_TOKENS_IN, output_tokens=USUAL_TOKENS_OUT)
        for model in settings.chat_models
    }
    return {name: cost_usd for name, cost_usd in costs.items() if math.isfinite(cost_usd)}


def at_prices(router: Router, noted: Version, settings: Settings) -> Router:
    """Return the router at today's prices: each cost factor is that of a usual call, over what it cost back then."""
    if not router.policy.can_reprice:
        return router
    now, then = usual_usd(settings), noted.prices_usd
    arms = tuple(
        dataclasses.replace(arm, cost_factor=now[arm.name] / then[arm.name])
        if arm.name in now and then.get(arm.name, 0) > 0
        else arm
        for arm in router.arms
    )
    return router if arms == router.arms.arms else dataclasses.replace(router, arms=ArmSet(arms))


def make_pacer(settings: Settings) -> Pacer | None:
    """Return what holds the budget of all requests; None where there is none."""
    budget = settings.budget
    if budget.usd_per_request is None and budget.usd_per_day is None:
        return None
    return Pacer(budget_usd_per_request=budget.usd_per_request, budget_usd_per_day=budget.usd_per_day)


def _reasons(
    ready: Ready,
    context: NDArray[np.float32],
    trade_off: TradeOff,
    eligible: tuple[str, ...],
    arm: int,
    probabilities: Vector,
    policy: RoundPolicy,
) -> list[str]:
    model = eligible[arm]
    if policy == "sticky":
        return [f"The conversation stays with {model}: no other model is expected to gain what leaving it would cost."]
    who = "The canary drew it" if policy == "canary" else "It was drawn"
    found = [f"{who} with probability {probabilities[arm]:.3f} among {len(eligible)} {describe_trade_off(trade_off)}."]
    expected = ready.expected(context, eligible)
    if expected is None:
        return [*found, f"The method {ready.router.facts.method} ranks models without predicting their outcomes."]
    utility: Any = trade_off.utility(quality=expected[0], cost_usd=expected[1])

    def told(t: int) -> str:
        quality, cost_usd = expected[0][t], expected[1][t]
        if math.isnan(quality):
            return "is new to the router, which knows nothing of it"
        return f"is expected to give quality {quality:.3f}" + (
            f" for {usd(cost_usd)} USD" if math.isfinite(cost_usd) else ""
        )

    found.insert(0, f"{model} {told(arm)} on this prompt.")
    if not np.isnan(utility).all() and (best := int(np.nanargmax(utility))) != arm:
        found.append(f"{eligible[best]} {told(best)}, the best that is known; others are drawn to learn of them.")
    return found
