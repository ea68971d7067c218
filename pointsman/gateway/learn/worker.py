"""The learner: folds feedback into the router that decides, every few seconds, and refits on a schedule.

Killed at any moment, it goes on where it was: the router that it keeps says through which feedback it has learned.
Requests never wait for it; while the store cannot be read, what has been learned goes on deciding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
import warnings
from typing import TYPE_CHECKING

import numpy as np

from pointsman.errors import InvalidLogError, InvalidRouterError, StatisticalWarning
from pointsman.gateway.learn.heard import Heard, read_log
from pointsman.gateway.learn.refit import Outcome, refit
from pointsman.gateway.learn.retention import Retention
from pointsman.gateway.learn.status import LearnerStatus
from pointsman.gateway.live import log as logger
from pointsman.gateway.routing import at_prices, open_registry, registry_folder, usual_usd
from pointsman.live import learn_feedback, online, with_model
from pointsman.logs.store import RoundStore, StoreError, open_store
from pointsman.online.base import ArmPrior
from pointsman.online.method import Online
from pointsman.pipeline import warm_start

if TYPE_CHECKING:
    from pointsman.gateway.settings import Settings, SettingsFile
    from pointsman.router import Router
    from pointsman.versions import Registry

LEARN_FROM = 100
"""Rounds with feedback from which a router that does not learn is made one that does."""
MOST_AT_ONCE = 5000
"""Feedback that is learned before the router is kept: of a long queue, routing has the benefit step by step."""
PAUSE_S = 0.1
"""Between two portions of old rounds that are deleted, so that gateways can write."""
NEW_ROUNDS = 10.0
"""Answers that the belief in a new model is worth: that it is as good as the others."""


class Learner:
    """Has the current version of a registry learn, and the versions on trial whose routers learn.

    All of them learn the same: what the served models were given for their answers. So a canary or a shadow is no
    staler than what it is compared with. A trial that fails is left out, and stops nothing.

    Args:
        registry: Where routers are; no other learner writes there.
        store: Where feedback is.
        settings: Checked ones.
    """

    def __init__(self, registry: Registry, store: RoundStore, settings: Settings) -> None:
        self.registry, self.store, self.settings = registry, store, settings
        self.version: str | None = None
        self._routers: dict[str, Router] = {}
        self._doubted: set[str] = set()
        self._refitting: threading.Thread | None = None
        self._refits: list[Outcome] = []
        self._status = LearnerStatus.read(registry.folder) or LearnerStatus()

    @property
    def router(self) -> Router | None:
        """The current version's router as it has learned; None where it has not begun to."""
        return None if self.version is None else self._routers.get(self.version)

    def step(self) -> int:
        """Learn feedback that is new, keep the routers, and return how much was read: of much, about `MOST_AT_ONCE`.

        Raises:
            InvalidRouterError: The current version cannot be loaded, or what was learned makes no router any more.
            StoreError: The store cannot be read.
        """
        roles = self.registry.roles()
        self.version = roles.current
        on_trial = [name for name in (roles.canary, roles.shadow) if name is not None and name != roles.current]
        self._routers = {name: each for name, each in self._routers.items() if name in (roles.current, *on_trial)}
        n_read = 0 if self.version is None else self._learn(self.version)
        for name in on_trial:
            try:
                n_read = max(n_read, self._learn(name))
            except InvalidRouterError as error:
                if name not in self._doubted:
                    self._doubted.add(name)
                    logger.error("version %s is on trial and does not learn: %s", name, error)
        return n_read

    def _learn(self, version: str) -> int:
        router = self._routers.get(version) or self._begin(version)
        if router is None:
            return 0
        n_models = len(router.arms)
        router = at_prices(self._with_new_models(router), self.registry.roles().versions[version], self.settings)
        self._routers[version] = router
        heard = Heard(self.store, n_features=online(router).learner.n_features, most=MOST_AT_ONCE)
        n_read = learn_feedback(router, heard)
        if n_read or len(router.arms) > n_models:
            self._keep(version)
        return n_read

    def is_refit_due(self) -> bool:
        """Return whether the time for a refit has come, by the registry's history; so a restart changes nothing."""
        interval_s = self.settings.learn.refit_interval_s
        if interval_s is None or (self._refitting is not None and self._refitting.is_alive()):
            return False
        roles = self.registry.roles()
        times = [event.at for event in roles.history if event.what == "refit"]
        times = times or [version.added_at for version in roles.versions.values()]
        return bool(times) and time.time() - times[-1] >= interval_s

    def refit_aside(self) -> None:
        """Begin a refit; feedback is learned meanwhile."""
        # A daemon: a refit that is cut short has changed nothing, or has changed it whole.
        self._refitting = threading.Thread(target=self._refit, daemon=True)
        self._refitting.start()

    def _refit(self) -> None:
        try:
            self._refits.append(refit(self.registry, self.store, self.settings))
        except Exception:
            logger.exception("the refit failed; what serves goes on")
            self.registry.note("refit", None, why="it failed; the learner's log says how")

    def note(self, *, n_read: int, error: Exception | None = None) -> None:
        """Leave word of a turn beside the routers; where that is not possible, learning goes on.

        Args:
            n_read: Feedback read in it.
            error: What ended it; None where it went well.
        """
        through = 0 if self.router is None else online(self.router).learned_through
        waiting = None
        with contextlib.suppress(StoreError), self.store.snapshot() as snapshot:
            waiting = int(snapshot.fetch("SELECT COUNT(*) FROM feedback WHERE seq > ?", through)[0][0])
        status = dataclasses.replace(
            self._status,
            at=time.time(),
            learned_through=through,
            waiting=waiting,
            n_learned=self._status.n_learned + n_read,
            last_error=None if error is None else type(error).__name__,
        )
        while self._refits:
            outcome = self._refits.pop(0)
            status = status.after_refit(outcome.version, is_promoted=outcome.is_promoted, why=outcome.why)
        self._status = status
        try:
            status.write(self.registry.folder)
        except OSError as failure:
            logger.error("nobody can be told how learning goes: %s", failure)

    def _begin(self, version: str) -> Router | None:
        """Return the router to learn with; None where there is too little yet to make one of what serves."""
        router = at_prices(self.registry.load(version), self.registry.roles().versions[version], self.settings)
        if isinstance(router.policy, Online):
            return router
        if version != self.version:  # What is on trial is what it was fitted to be.
            return None
        try:
            log, seq = read_log(self.store)
        except InvalidLogError:
            return None
        if np.count_nonzero(~np.isnan(log.quality)) < LEARN_FROM:
            return None
        exploration = self.settings.exploration
        encoder = router.encoder if log.prompt is not None else None
        warm = warm_start(
            dataclasses.replace(router, encoder=encoder), log, exploration=exploration.strength, floor=exploration.floor
        )
        router = self._routers[version] = dataclasses.replace(warm, encoder=router.encoder)
        online(router).learned_through = seq
        self._keep(version)
        logger.info("version %s goes on learning, from %d rounds", version, log.n_rounds)
        return router

    def _with_new_models(self, router: Router) -> Router:
        """Return the router with the configured models that it does not know, believed to be as good as the others."""
        usual = usual_usd(self.settings)
        new = [model.name for model in self.settings.chat_models if model.name not in router.arms]
        for name in new:
            router = with_model(
                router, name, ArmPrior(cost_usd=_expected_usd(router, usual, name), n_rounds=NEW_ROUNDS)
            )
            logger.info("model %s is new, and tried from now on", name)
        return router

    def _keep(self, version: str) -> None:
        router = self._routers[version]
        context = np.zeros((1, router.facts.n_features), dtype=np.float32)
        probabilities = router.probabilities(context, router.default_trade_off)
        if not abs(probabilities.sum() - 1) < 1e-6:  # true for NaN as well
            del self._routers[version]  # The next step begins with what was kept last.
            raise InvalidRouterError("what was learned must give probabilities that sum to one; it is not kept")
        self.registry.keep_learned(version, router)


def _expected_usd(router: Router, usual: dict[str, float], name: str) -> float | None:
    """Return what a call of a new model will cost: what calls of the others do, at its price."""
    costs = router.facts.mean_cost_usd
    ratios = [
        cost_usd / usual[other] for other, cost_usd in costs.items() if cost_usd is not None and usual.get(other, 0) > 0
    ]
    if name not in usual:
        return None
    return usual[name] * (float(np.mean(ratios)) if ratios else 1.0)


def run(file: SettingsFile, stop: threading.Event | None = None, *, once: bool = False) -> None:
    """Learn until told to stop, and delete rounds that are older than the settings keep.

    Args:
        file: The settings; changes are taken over, but for the store and the registry.
        stop: Set where it is to stop; it never is where None.
        once: Whether to stop after the feedback that is there.

    Raises:
        InvalidRouterError: Another learner works on the registry.
    """
    settings, stop = file.settings, stop or threading.Event()
    registry = open_registry(settings)
    with registry.alone("learner") as is_alone:
        if not is_alone:
            raise InvalidRouterError(f"{registry.folder} must have one learner; another one is at work")
        registry.sweep()
        with open_store(settings.store.url.get_secret_value()) as store:
            learner, retention = Learner(registry, store, settings), Retention(store)
            if once:
                n_read = -1
                while n_read:
                    n_read = learner.step()
                    learner.note(n_read=n_read)
                while _forget(retention, settings):
                    pass
                return
            while not stop.is_set():
                if file.changed() and file.reload():
                    learner.settings = file.settings
                    if "store.url" in file.need_restart or registry_folder(file.settings) != registry.folder:
                        logger.warning("a change of the store or the registry needs a restart of the learner")
                n_read = _turn(learner)
                if _forget(retention, learner.settings):
                    stop.wait(PAUSE_S)
                elif n_read < MOST_AT_ONCE:
                    stop.wait(learner.settings.learn.interval_s)


def _turn(learner: Learner) -> int:
    n_read, failure = 0, None
    if learner.settings.learn.enabled:
        try:
            n_read = learner.step()
            if n_read:
                logger.info("learned %d feedback into version %s", n_read, learner.version)
            if learner.is_refit_due():
                learner.refit_aside()
        except Exception as error:
            # Whatever is wrong, it may pass, and what has been learned goes on deciding.
            logger.error("nothing was learned this time: %s: %s", type(error).__name__, error)
            failure = error
    learner.note(n_read=n_read, error=failure)
    return n_read


def _forget(retention: Retention, settings: Settings) -> bool:
    try:
        return retention.step(settings.store.retention_days)
    except StoreError as error:
        logger.error("no old rounds were deleted this time: %s: %s", type(error).__name__, error)
        return False


def run_until_told(file: SettingsFile, *, once: bool = False) -> None:
    """Run as a process: SIGTERM and Ctrl-C stop it."""
    stop = threading.Event()
    for told in (signal.SIGTERM, signal.SIGINT):
        signal.signal(told, lambda *_: stop.set())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticalWarning)
        run(file, stop, once=once)
