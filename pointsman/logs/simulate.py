"""One-arm logs drawn from full feedback by a stated logging policy: the propensities are true, the truth is kept."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.logs.columns import LOG_COLUMNS
from pointsman.logs.full_feedback import FullFeedback
from pointsman.logs.rounds import LoggedRounds
from pointsman.types import Context, PerArm, PerRound

Logger: TypeAlias = Literal["uniform", "cheap", "confounded", "hidden", "deterministic"]
Signal: TypeAlias = Literal["pc", "length", "task"]

LOGGERS: tuple[str, ...] = get_args(Logger)
SIGNALS: tuple[str, ...] = get_args(Signal)

_HIDDEN_NOISE_SD = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulated:
    """A one-arm log, and what it does not show.

    Attributes:
        log: The logged rounds, with their true propensities, in the table's order.
        rest: Full feedback of the prompts that are not in the log.
        truth: Full feedback of the prompts that are: what the log hides.
        probabilities: (n_rounds, n_arms) the logging policy's probability of every arm in every logged round.
        train_index: (n_rounds,) place of each logged prompt in the table.
        rest_index: (n_rest,) place of each other prompt in the table.
    """

    log: LoggedRounds
    rest: FullFeedback
    truth: FullFeedback
    probabilities: PerArm
    train_index: NDArray[np.int64]
    rest_index: NDArray[np.int64]


def simulate(
    table: FullFeedback,
    *,
    logger: Logger,
    floor: float = 0.05,
    share: float = 0.6,
    strength: float = 1.0,
    signal: Signal = "pc",
    seed: int,
    features: Context | None = None,
) -> Simulated:
    """Return a log in which a stated policy chose one arm for each of a random share of the prompts.

    Which prompts are logged and which arm is drawn depend on the seed and on the set of `query_id`s, not on the order
    of the table's rows. The logging policies are those of `logging_probabilities`.

    Args:
        table: The outcome of every arm for every prompt.
        logger: The logging policy.
        floor: Probability spread evenly over all arms, in [0, 1]; not used by `uniform` and `deterministic`.
        share: Share of the prompts that is logged, in (0, 1).
        strength: S >= 0, how much the policy leans.
        signal: What of the prompt drives `confounded` and `deterministic`.
        seed: Seed of the split, of the draws, and of what `task` and `hidden` need at random.
        features: (n_prompts, n_features) features of the table's prompts: needed by `signal="pc"`; for `hidden`, what
            its signal must not be seen in.

    Raises:
        InvalidParameterError: An argument breaks its rule, or the table lacks what the signal needs.
    """
    if not 0 < share < 1:
        raise InvalidParameterError(f"share must be in (0, 1); got {share}")
    n_prompts = len(table)
    n_rounds = round(share * n_prompts)
    if not 0 < n_rounds < n_prompts:
        raise InvalidParameterError(
            f"share must leave a prompt on either side; got {share} of {n_prompts} prompts; use a larger table"
        )
    probabilities = logging_probabilities(
        table, logger=logger, floor=floor, strength=strength, signal=signal, seed=seed, features=features
    )
    by_name = np.argsort(np.array(table.query_id))
    rng = _generator(seed, "split and draws")
    train_index = np.sort(by_name[rng.permutation(n_prompts)[:n_rounds]])
    rest_index = np.setdiff1d(np.arange(n_prompts), train_index)
    draw = np.empty(n_prompts)
    draw[by_name] = rng.random(n_prompts)

    logged = probabilities[train_index]
    cumulative = logged.cumsum(axis=1)
    # Scaling by the last sum keeps a draw of 0.999... from falling past a row that sums to 1 - 1e-16.
    arm = (draw[train_index, None] * cumulative[:, -1:] >= cumulative).sum(axis=1)
    truth = table.take(train_index)
    return Simulated(
        log=_log(truth, arm=arm, probabilities=logged),
        rest=table.take(rest_index),
        truth=truth,
        probabilities=logged,
        train_index=train_index,
        rest_index=rest_index,
    )


def logging_probabilities(
    table: FullFeedback,
    *,
    logger: Logger,
    floor: float = 0.05,
    strength: float = 1.0,
    signal: Signal = "pc",
    seed: int,
    features: Context | None = None,
) -> PerArm:
    """Return the logging policy's probability of every arm for every prompt of the table, (n_prompts, n_arms).

    With r_t the rank of arm t's mean cost (of its mean quality where the table has no cost) scaled to [-1, 1], ties
    sharing their mean rank, S the strength and s(x) a signal with mean 0 and standard deviation 1 over the table:

        uniform        P(t|x) = 1/K
        cheap          P(t|x) = (1 - floor) softmax_t(-S r_t) + floor/K
        confounded     P(t|x) = (1 - floor) softmax_t(S (s(x) - 1/2) r_t) + floor/K
        hidden         the same, with a signal that the features do not show
        deterministic  all on the confounded policy's likeliest arm, on the first of equals

    The 1/2 is subtracted from the standardised signal as it stands: a prompt of average signal leans to the cheap
    arms, the dear ones are preferred from half a standard deviation above, for about a third of the prompts.

    The signal is, before it is standardised: `pc`, the first principal component of the features, with the sign that
    makes its largest loading positive; `length`, the log of the prompt's number of characters; `task`, none: there
    S (s - 1/2) r_t is replaced by S r'_t, the ranks reshuffled among the arms for each task, by the seed. For `hidden`
    it is the prompt's mean quality over the arms, standardised, plus normal noise of standard deviation 1/2; where
    features are given, what a linear regression on them explains of this sum is taken away. So it drives the choice,
    goes with the outcomes, and is uncorrelated with every feature.

    Args:
        table: The outcome of every arm for every prompt.
        logger: The logging policy.
        floor: Probability spread evenly over all arms, in [0, 1]; not used by `uniform` and `deterministic`.
        strength: S >= 0, how much the policy leans.
        signal: What of the prompt drives `confounded` and `deterministic`.
        seed: Seed of the tasks' favourites and of the noise in the hidden signal.
        features: (n_prompts, n_features) features of the table's prompts.

    Raises:
        InvalidParameterError: An argument breaks its rule, or the table lacks what the signal needs.
    """
    _check(table, logger=logger, floor=floor, strength=strength, signal=signal, seed=seed, features=features)
    shape = (len(table), len(table.arms))
    if logger == "uniform":
        return np.full(shape, 1 / shape[1])
    rank = _arm_ranks(table)
    if logger == "cheap":
        return _floored(np.broadcast_to(-strength * rank, shape), floor=floor)
    if logger != "hidden" and signal == "task":
        logits = strength * _task_ranks(table, rank, seed=seed)
    else:
        logits = strength * (_signal(table, logger, signal, seed=seed, features=features) - 0.5)[:, None] * rank
    if logger == "deterministic":
        chosen: PerArm = np.eye(shape[1])[logits.argmax(axis=1)]
        return chosen
    return _floored(logits, floor=floor)


def _check(
    table: FullFeedback,
    *,
    logger: str,
    floor: float,
    strength: float,
    signal: str,
    seed: int,
    features: Context | None,
) -> None:
    if logger not in LOGGERS:
        raise InvalidParameterError(f"logger must be one of {', '.join(LOGGERS)}; got {logger!r}")
    if signal not in SIGNALS:
        raise InvalidParameterError(f"signal must be one of {', '.join(SIGNALS)}; got {signal!r}")
    if not 0 <= floor <= 1:
        raise InvalidParameterError(f"floor must be in [0, 1]; got {floor}")
    if not (math.isfinite(strength) and strength >= 0):
        raise InvalidParameterError(f"strength must be finite and >= 0; got {strength}")
    if seed < 0:
        raise InvalidParameterError(f"seed must be >= 0; got {seed}")
    if features is not None and (features.ndim != 2 or len(features) != len(table) or not np.isfinite(features).all()):
        raise InvalidParameterError(
            f"features must be finite, one row for each of the table's {len(table)} prompts; got {features.shape}"
        )


def _arm_ranks(table: FullFeedback) -> NDArray[np.float64]:
    # A mean of sorted values does not depend on the order of the prompts, down to the last bit.
    outcome = np.sort(table.quality if table.cost_usd is None else table.cost_usd, axis=0)
    mean = outcome.mean(axis=0)
    below = (mean[:, None] > mean).sum(axis=1)
    tied = (mean[:, None] == mean).sum(axis=1) - 1
    return np.asarray((2 * below + tied) / max(mean.size - 1, 1) - (mean.size > 1), dtype=np.float64)


def _task_ranks(table: FullFeedback, rank: NDArray[np.float64], *, seed: int) -> PerArm:
    if "task" not in table.extra.column_names:
        raise InvalidParameterError(
            f"signal 'task' needs a column 'task' that is constant within a prompt; "
            f"got columns {table.extra.column_names}; use signal 'pc' or 'length'"
        )
    tasks = [str(task) for task in table.extra["task"].to_pylist()]
    ranks = {task: _generator(seed, f"favourites of {task}").permutation(rank) for task in dict.fromkeys(tasks)}
    return np.array([ranks[task] for task in tasks])


def _signal(table: FullFeedback, logger: Logger, signal: Signal, *, seed: int, features: Context | None) -> PerRound:
    """Return s(x) with mean 0 and standard deviation 1 over the table."""
    # Everything is computed in the order of query_id, so that the order of the table's rows cannot matter.
    by_name = np.argsort(np.array(table.query_id))
    ordered = None if features is None else np.asarray(features, dtype=np.float64)[by_name]
    if logger == "hidden":
        quality = table.quality[by_name].mean(axis=1)
        noise = _HIDDEN_NOISE_SD * _generator(seed, "hidden signal").standard_normal(len(table))
        raw = _standardised(quality, of="mean quality") + noise
        if ordered is not None:
            design = np.column_stack([np.ones(len(table)), ordered])
            raw = raw - design @ np.linalg.lstsq(design, raw, rcond=None)[0]
    elif signal == "length":
        raw = np.log([max(len(table.prompt[row]), 1) for row in by_name])
    else:
        if ordered is None:
            raise InvalidParameterError(
                "signal 'pc' needs features of the table's prompts; got none; pass features, or use signal 'length'"
            )
        centred = ordered - ordered.mean(axis=0)
        direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        raw = centred @ (direction * np.sign(direction[np.abs(direction).argmax()]))
    standardised = np.empty(len(table))
    standardised[by_name] = _standardised(raw, of="the hidden signal" if logger == "hidden" else f"signal {signal!r}")
    return standardised


def _standardised(raw: PerRound, *, of: str) -> PerRound:
    spread = raw.std()
    if spread <= 1e-9 * max(1.0, float(np.abs(raw).max())):
        raise InvalidParameterError(
            f"{of} must differ between prompts (beyond what features explain); got one value; use another logger"
        )
    return np.asarray((raw - raw.mean()) / spread, dtype=np.float64)


def _floored(logits: PerArm, *, floor: float) -> PerArm:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    floored: PerArm = (1 - floor) * weights / weights.sum(axis=1, keepdims=True) + floor / logits.shape[1]
    return floored


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """Return a stream of its own for each purpose, so that one draw more here moves nothing there."""
    digest = hashlib.blake2b(purpose.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])


def _log(truth: FullFeedback, *, arm: NDArray[np.int64], probabilities: PerArm) -> LoggedRounds:
    row = np.arange(len(truth))
    columns: dict[str, Any] = {
        "round_id": truth.query_id,
        "prompt": truth.prompt,
        "model": [truth.arms.names[i] for i in arm],
        "propensity": np.minimum(probabilities[row, arm], 1.0),  # a softmax of one arm may sum to 1 + 2e-16
        "quality": truth.quality[row, arm],
        "cost_usd": pa.nulls(len(truth), pa.float64()) if truth.cost_usd is None else truth.cost_usd[row, arm],
        "quality_source": [truth.quality_source] * len(truth),
    }
    columns |= {name: truth.extra[name] for name in truth.extra.column_names if name not in LOG_COLUMNS}
    return LoggedRounds.from_columns(source=f"log simulated from {truth.source}", arms=truth.arms, **columns)
