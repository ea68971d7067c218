"""The peer ParetoBandit 0.1.1 as an online policy, through its public API alone and as well set up as that allows."""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.online.base import ArmPrior, Choice, OnlinePolicy, Vector
from pointsman.online.features import Components
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, Context, State


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What of it can be set.

    Attributes:
        n_components: Components of the context kept.
        alpha: Its exploration.
        forgetting_factor: Share of the past kept each round; 1 forgets nothing.
        initial_quality: What every arm is expected to be worth before its first answer.
    """

    n_components: int
    alpha: float
    forgetting_factor: float
    initial_quality: float


COLD_START = Setting(n_components=25, alpha=0.05, forgetting_factor=0.997, initial_quality=0.0)
"""What its authors selected for a cold start (`BEST_K3_TABULA_RASA_HPARAMS`)."""
BEST = Setting(n_components=4, alpha=0.25, forgetting_factor=1.0, initial_quality=1.0)
"""What earned most on routerbench, paretobandit and llmrouter at lambda 0, 0.1 and random, on seeds 100 and 101, which
are not reported: of 4, 8, 25 or 64 whitened components, or 25 or 256 that are not; alpha from 0.01 to 1; forgetting
factors 0.997 and 1; initial quality 0, 0.7 or 1."""


class ParetoBandit(OnlinePolicy):
    """Disjoint LinUCB on quality, less a cost penalty at selection: `BanditRouter.route` and `process_feedback`.

    How it is set up, each time in its favour where there was a choice:

    - Features: principal components of the same context, whitened, and a constant, as its own `FeatureService` makes
      them; ready vectors go in through `FeatureService.for_precomputed`. Its components have to be known beforehand:
      they are those of prompts that are not in the stream, where the policies here learn theirs from the stream.
    - Prices: it never learns cost, so it is told every arm's true mean cost per call.
    - Trade-off: its score is quality - cost_penalty x position, with position in [0, 1] logarithmic in the registered
      price. Registered prices are such that the positions are linear in cost, (c - min c) / (max c - min c), and
      cost_penalty = lambda (max c - min c) before each call. So it maximises quality - lambda cost exactly; with the
      prices themselves it would take a cost in the middle for a much higher one.
    - Reward: quality. Cold start (`priors="none"`): its shipped priors are of three arms under another encoder. What
      arms are expected to be worth at first is a weight of the constant (`register_model(initial_weights=...)`).

    It draws from nothing: the propensity of its choice is one.

    Args:
        cost_usd: (n_arms,) mean cost of a call.
        context: (n, n_features) prompts its components are learned from.
        setting: What of it can be set.
        seed: Of its own random tie-breaks.

    References:
        https://pypi.org/project/paretobandit/0.1.1/
    """

    name = "paretobandit"

    def __init__(
        self,
        *,
        cost_usd: Vector,
        context: Context,
        setting: Setting = BEST,
        seed: int = 0,
    ) -> None:
        from pareto_bandit import BanditRouter, FeatureService

        logging.getLogger("pareto_bandit").setLevel(logging.ERROR)
        self.n_arms, self.n_features = cost_usd.size, context.shape[1]
        self.components = Components.of(context, n_components=setting.n_components)
        deviation = self.components(context.astype(np.float64)).std(axis=0)
        self.scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        self.cost_usd = cost_usd.astype(np.float64)
        self.cost_factor = np.ones(self.n_arms)
        self.setting = setting
        self.router = BanditRouter.create(
            model_registry={},
            priors="none",
            feature_service=FeatureService.for_precomputed(self.scale.size + 1),
            alpha=setting.alpha,
            forgetting_factor=setting.forgetting_factor,
            bandit_seed=seed,
            cost_penalty=0.0,
        )
        for arm in range(self.n_arms):
            self._register(arm)
        self._register_prices()
        self._asked: deque[tuple[Vector, int, str]] = deque(maxlen=10_000)

    def features(self, context: Vector) -> Vector:
        """Return the vector it is given: whitened components and a constant."""
        return np.append(self.components(context) * self.scale, 1.0)

    def decide(
        self,
        context: Vector,
        trade_off: TradeOff,
        eligible: NDArray[np.bool_] | None = None,
        *,
        rng: np.random.Generator,
    ) -> Choice:
        """Return its choice; what is drawn from `rng` is thrown away, so that all policies draw alike."""
        rng.random()
        arm = self._route(context, trade_off, eligible)
        return Choice(arm=arm, propensity=1.0, probabilities=np.eye(self.n_arms)[arm])

    def probabilities(self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_]) -> Vector:
        """Return one for the arm it would choose without exploring (`BanditRouter.exploit`)."""
        with self.router.exploit():
            arm = self._route(context, trade_off, eligible)
        self._asked.pop()
        return np.asarray(np.eye(self.n_arms)[arm])

    def update(
        self,
        context: Vector,
        arm: int,
        *,
        quality: float = math.nan,
        cost_usd: float = math.nan,
        trade_off: TradeOff | None = None,
        weight: float = 1.0,
    ) -> None:
        """Hand in the quality of the answer to a decision, by its request's id."""
        del cost_usd, trade_off, weight
        if math.isnan(quality):
            return
        for place in range(len(self._asked) - 1, -1, -1):
            asked, chosen, request = self._asked[place]
            if chosen == arm and (asked is context or np.array_equal(asked, context)):
                del self._asked[place]
                self.router.process_feedback(request, quality)
                return
        # An answer to nothing it was asked: scored beforehand.
        self.router.update(str(arm), self.features(context), quality)

    def add_arm(self, prior: ArmPrior | None = None) -> int:
        """Register a new arm, cold; its price is that of the prior, which it cannot do without."""
        if prior is None or prior.cost_usd is None:
            raise InvalidParameterError(f"prior must give cost_usd: this policy does not learn costs; got {prior}")
        self._register(self.n_arms)
        self.n_arms += 1
        self.cost_usd = np.append(self.cost_usd, prior.cost_usd)
        self.cost_factor = np.append(self.cost_factor, 1.0)
        self._register_prices()
        return self.n_arms - 1

    def set_price(self, arm: int, factor: float) -> None:
        """Register a price so many times that of the beginning."""
        self.cost_factor[arm] = factor
        self._register_prices()

    def state(self) -> tuple[State, Arrays]:
        """Refuse: a peer under study is not saved."""
        raise NotImplementedError("a peer under study is not saved")

    @classmethod
    def from_state(cls, values: State, arrays: Arrays) -> Self:
        """Refuse: a peer under study is not saved."""
        raise NotImplementedError("a peer under study is not saved")

    def _route(self, context: Vector, trade_off: TradeOff, eligible: NDArray[np.bool_] | None) -> int:
        rate = trade_off.quality_per_usd
        # Beside a penalty of a million no difference of quality is of any weight.
        self.router.cost_penalty = self.spread_usd * rate if math.isfinite(rate) else 1e6
        options: dict[str, Any] = {}
        if eligible is not None and not eligible.all():
            # Its one way to leave arms out of a single request.
            for arm in range(self.n_arms):
                self.router.registry[str(arm)]["scores"] = {"eligible": float(eligible[arm])}
            options["quality_floor"] = {"eligible": 0.5}
        model, log = self.router.route(self.features(context), input_tokens=1, **options)
        self._asked.append((context, int(model), log.request_id))
        return int(model)

    def _register(self, arm: int) -> None:
        # Prices follow at once, in `_register_prices`.
        self.router.register_model(
            str(arm),
            input_cost_per_m=1.0,
            output_cost_per_m=1.0,
            initial_weights={"bias": self.setting.initial_quality},
        )

    def _register_prices(self) -> None:
        cost = self.cost_usd * self.cost_factor
        self.spread_usd = float(np.ptp(cost))
        position = (cost - cost.min()) / (self.spread_usd or 1.0)
        config = self.router.config
        per_1k = config.market_cost_floor * (config.market_cost_ceiling / config.market_cost_floor) ** position
        for arm, price in enumerate(1e3 * per_1k):
            self.router.update_model_pricing(str(arm), input_cost_per_m=float(price), output_cost_per_m=float(price))
