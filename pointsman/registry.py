"""Routers on disk: what the folder's manifest and arrays say of a router."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from typing import Any

import numpy as np

from pointsman import encode, policies
from pointsman.arms import Arm, ArmSet
from pointsman.encode.base import Encoder
from pointsman.errors import InvalidParameterError, InvalidRouterError, MissingDependencyError, PointsmanError
from pointsman.folder import read_folder, write_folder
from pointsman.policies.base import Policy
from pointsman.router import FitFacts, Router
from pointsman.trade_off import TradeOff
from pointsman.types import Arrays, State

_POLICY = "policy."
_TRAINING_ROUNDS = "training_rounds"


def save_router(router: Router, path: str | os.PathLike[str]) -> str:
    """Write a router as a folder and return its content hash; the same fit gives the same bytes.

    The folder holds `manifest.json` (version, arms with prices, trade-off scale, encoder, training log hash, method,
    seed, package version) and `arrays.safetensors`. A router that stands at `path` is replaced whole; nothing else is.

    Raises:
        InvalidRouterError: `path` holds something that is not a router, or cannot be written.
        InvalidParameterError: The policy holds a model that no arrays describe.
    """
    values, arrays = router.policy.state()
    facts = dataclasses.asdict(router.facts)
    manifest: State = {
        "package_version": facts.pop("version"),
        "method": facts.pop("method"),
        "seed": facts.pop("seed"),
        "options": facts.pop("options"),
        "arms": [dataclasses.asdict(arm) for arm in router.arms],
        "trade_off": {
            "cost_scale_usd": router.cost_scale_usd,
            "default_quality_per_usd": router.default_trade_off.quality_per_usd,
        },
        "encoder": None if router.encoder is None else router.encoder.describe(),
        "training": {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items()},
        "policy": values,
    }
    named: Arrays = {f"{_POLICY}{name}": array for name, array in arrays.items()}
    named[_TRAINING_ROUNDS] = router.training_rounds
    return write_folder(path, manifest=manifest, arrays=named)


def load_router(
    path: str | os.PathLike[str], *, encoder: Encoder | None = None, trusted: Collection[str] | None = None
) -> Router:
    """Return the router in a folder, after checking every hash and that policy, arms and encoder belong together.

    Nothing in the folder is run.

    Args:
        path: Folder that `save_router` wrote.
        encoder: The encoder it was fitted with, where `encode.load` cannot rebuild it: one of your own.
        trusted: Encoders outside this process that may be used; see `encode.load`.

    Raises:
        InvalidRouterError: The folder is missing, foreign, truncated, tampered with, of a newer version, or its encoder
            is not trusted or not the one given.
        MissingDependencyError: The encoder needs an extra that is not installed.
    """
    manifest, arrays = read_folder(path)
    where = f"router folder {os.fspath(path)}"
    try:
        router = _router(manifest, arrays, encoder=encoder, trusted=trusted)
        _probe(router)
    except MissingDependencyError:
        raise
    except InvalidRouterError as error:
        raise InvalidRouterError(f"{where}: {error}") from error
    except (PointsmanError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InvalidRouterError(
            f"{where}: its parts do not make a router ({_one_line(error)}); fit or save it again"
        ) from error
    return router


def _router(manifest: State, arrays: Arrays, *, encoder: Encoder | None, trusted: Collection[str] | None) -> Router:
    method = manifest["method"]
    named = {name.removeprefix(_POLICY): array for name, array in arrays.items() if name.startswith(_POLICY)}
    training_rounds = arrays[_TRAINING_ROUNDS]
    if training_rounds.dtype != np.uint64 or training_rounds.ndim != 1:
        raise InvalidRouterError(f"{_TRAINING_ROUNDS} must be a list of 64-bit identities; got {training_rounds.dtype}")
    trade_off = manifest["trade_off"]
    facts = FitFacts(
        version=manifest["package_version"],
        method=method,
        seed=manifest["seed"],
        options=manifest["options"],
        **manifest["training"],
    )
    return Router(
        encoder=_encoder(manifest["encoder"], given=encoder, trusted=trusted),
        policy=_policy(method, manifest["policy"], named),
        arms=ArmSet(tuple(Arm(**arm) for arm in manifest["arms"])),
        cost_scale_usd=trade_off["cost_scale_usd"],
        default_trade_off=TradeOff(trade_off["default_quality_per_usd"]),
        facts=facts,
        training_rounds=training_rounds,
    )


def _policy(method: str, values: State, arrays: Arrays) -> Policy:
    from pointsman.online.method import Online

    return Online.from_state(values, arrays) if method == Online.name else policies.from_state(method, values, arrays)


def _encoder(described: Any, *, given: Encoder | None, trusted: Collection[str] | None) -> Encoder | None:
    if described is None:
        if given is not None:
            raise InvalidParameterError("encoder must not be given for a router fitted on embeddings; it has none")
        return None
    if given is None:
        return encode.load(described, trusted=trusted)
    if given.describe()["fingerprint"] != described["fingerprint"]:
        raise InvalidRouterError(
            f"the encoder given ({given.describe()['fingerprint'][:12]}) is not the one the router was fitted with "
            f"({str(described['fingerprint'])[:12]})"
        )
    return given


def _probe(router: Router) -> None:
    """Raise unless the policy gives each of the arms a probability for a context of the encoder's length."""
    n_features = router.facts.n_features
    if router.encoder is not None and router.encoder.n_features != n_features:
        raise InvalidRouterError(f"n_features must be the encoder's {router.encoder.n_features}; got {n_features}")
    probabilities = router.probabilities(np.zeros((1, n_features), dtype=np.float32), TradeOff())
    if probabilities.shape != (1, len(router.arms)) or not abs(probabilities.sum() - 1) < 1e-6:
        raise InvalidRouterError(
            f"the policy must give each of {len(router.arms)} models a probability; got {probabilities.tolist()}"
        )
    for facts in (router.facts.mean_quality, router.facts.mean_cost_usd):
        if set(facts) != set(router.arms.names):
            raise InvalidRouterError("the manifest must give every model's mean quality and cost")


def _one_line(error: Exception) -> str:
    return " ".join(repr(error).split())[:200]
