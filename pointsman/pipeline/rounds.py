"""What fitting, evaluating and scoring share: the context, groups and labels of rounds, and the default trade-offs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pointsman.encode import default_encoder, encode_with_progress
from pointsman.encode.base import Encoder
from pointsman.errors import InvalidParameterError
from pointsman.logs import LoggedRounds
from pointsman.logs.columns import LOG_COLUMNS
from pointsman.router import json_number
from pointsman.types import Context

Propensity: TypeAlias = Literal["auto", "logged", "estimated"]


TRADE_OFFS = (0.0, 0.05, 0.1, 0.2, 0.5)
"""The default trade-offs, in units of 1 / mean cost of the dearest arm: at 0.1 its mean call weighs a tenth of a full
point of quality."""


MANY_ROUNDS = 20_000
"""Rounds from which two BLAS threads are worth it. On smaller matrices they mostly wait for each other: on two busy
cores a fit of 1,890 rounds and 11 arms took 25 s with two threads and 3.5 s with one."""


MOST_SLICES = 50
"""Labels of a column that are told apart; a column of more, such as a user's name, is no way to slice."""


_SLOW = ("onnx", "sentence-transformers", "endpoint")
"""Encoders that take longer than looking a vector up; a user's own may not be what its fingerprint says."""


def default_trade_offs(mean_cost_usd: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """Return lambda = {0, .05, .1, .2, .5} / mean cost of the dearest arm, in quality points per USD; {0} without cost.

    Args:
        mean_cost_usd: Mean cost of every arm, in USD; NaN where not known.
    """
    known = np.asarray(mean_cost_usd, dtype=np.float64)
    known = known[np.isfinite(known)]
    if known.size == 0 or known.max() <= 0:
        return [0.0]
    return [float(share / known.max()) for share in TRADE_OFFS]


def listed(quality_per_usd: Sequence[float] | float) -> list[float]:
    """Return the trade-offs given, one or many, without repeats."""
    values = [quality_per_usd] if isinstance(quality_per_usd, int | float) else [float(x) for x in quality_per_usd]
    if not values:
        raise InvalidParameterError("quality_per_usd must hold at least one trade-off; got none")
    return [float(value) for value in dict.fromkeys(values)]


def encoder_for(log: LoggedRounds, encoder: Encoder | None) -> Encoder | None:
    """Return the encoder of a log's prompts: the one given, else the default; None where it has embeddings only."""
    if log.prompt is not None:
        return encoder or default_encoder()
    if encoder is not None:
        raise InvalidParameterError(
            f"encoder needs a prompt in every round; {log.source} has embeddings only: leave the encoder out, or add "
            "prompts"
        )
    return None


def make_context(log: LoggedRounds, encoder: Encoder | None, *, show_progress: bool) -> Context:
    """Return the context of every round: of its prompt, or its embedding where there is no encoder."""
    if encoder is None:
        assert log.embedding is not None  # noqa: S101 - a valid log has prompts or embeddings
        return log.embedding
    assert log.prompt is not None  # noqa: S101 - `encoder_for` gave an encoder because it has
    return encode_prompts(encoder, log.prompt, show_progress=show_progress)


def encode_prompts(encoder: Encoder, prompts: Sequence[str], *, show_progress: bool) -> Context:
    """Return the context of prompts; those of a slow encoder of ours are kept on disk, so none is encoded twice."""
    if encoder.describe()["kind"] in _SLOW:
        from pointsman.encode.cache import CachedEncoder

        encoder = CachedEncoder(encoder)
    return encode_with_progress(encoder, prompts, show=show_progress)


def fingerprint_of(encoder: Encoder | None) -> str | None:
    """Return what tells encoders apart; None stands for the log's own embeddings."""
    return None if encoder is None else str(encoder.describe()["fingerprint"])


def prompt_groups(log: LoggedRounds) -> NDArray[np.int64]:
    """Return a label of each round, the same for rounds of one prompt."""
    seen: Sequence[Any] = log.prompt if log.prompt is not None else [row.tobytes() for row in log.embedding]  # type: ignore[union-attr]
    code: dict[Any, int] = {}
    return np.array([code.setdefault(prompt, len(code)) for prompt in seen], dtype=np.int64)


def judged(source: str) -> str:
    """Return what to say of full feedback whose quality is no gold label."""
    return f"quality was judged by {source}: every result is in that judge's units, and so are its biases"


def slice_labels(log: LoggedRounds, column: str) -> NDArray[np.str_] | None:
    """Return each round's label in a column of the log; None where the log has no such column.

    Raises:
        InvalidParameterError: The column is no label of rounds, or has too many labels to slice by.
    """
    if column in LOG_COLUMNS and column not in ("quality_source", "router_version", "session_id"):
        raise InvalidParameterError(f"slices must be by columns that describe rounds, such as task; got {column!r}")
    if column not in log.table.column_names:
        return None
    labels = np.array(["(none)" if value is None else str(value) for value in log.table[column].to_pylist()])
    n_labels = np.unique(labels).size
    if n_labels > MOST_SLICES:
        raise InvalidParameterError(
            f"slices must be by columns of at most {MOST_SLICES} labels; {column!r} has {n_labels}: group them first"
        )
    return labels


def known_mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of what is known; None where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def json_ready(value: Any) -> Any:
    """Return nested lists and dicts with numbers as JSON can hold them."""
    if isinstance(value, dict):
        return {key: json_ready(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(inner) for inner in value]
    return json_number(value) if isinstance(value, float) else value


@contextmanager
def few_threads(n_rounds: int) -> Iterator[None]:
    """Keep BLAS to the threads that so many rounds can use; see `MANY_ROUNDS`."""
    # Only libraries that are loaded can be limited, and scikit-learn brings its own.
    import sklearn.linear_model  # noqa: F401
    from threadpoolctl import threadpool_info, threadpool_limits

    allowed = min((pool["num_threads"] for pool in threadpool_info()), default=1)
    with threadpool_limits(limits=min(allowed, 2 if n_rounds >= MANY_ROUNDS else 1)):
        yield
