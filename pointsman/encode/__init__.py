"""Encoders: prompt in, context vector out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.encode.base import Encoder, check_prompts
from pointsman.errors import InvalidParameterError, InvalidRouterError
from pointsman.types import State

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Encoder", "default_encoder", "encode_with_progress", "load"]

TRUSTED_ENV: Final = "POINTSMAN_TRUSTED_ENCODERS"

_PROMPTS_A_STEP: Final = 256
_QUIET_S: Final = 2.0


def default_encoder() -> Encoder:
    """Return the encoder used where none is named: static vectors, which cost a tenth of a millisecond a prompt."""
    from pointsman.encode.static import StaticEncoder

    return StaticEncoder()


def load(described: State, *, trusted: Collection[str] | None = None) -> Encoder:
    """Return the encoder that `describe` described, after checking that it still gives the same vectors.

    A description comes from a router folder, perhaps a stranger's. The built-in encoders are pinned by hash. The
    others reach outside: an endpoint is sent every prompt and the value of an environment variable, and a model folder
    may hold code; so they are rebuilt only if the caller vouches for them by name.

    Args:
        described: What `Encoder.describe` returned.
        trusted: Base URLs and sentence-transformers models that may be used; those listed in the environment variable
            POINTSMAN_TRUSTED_ENCODERS, separated by commas, where None.

    Raises:
        InvalidRouterError: The kind is not known, a value is out of place, the encoder is not trusted, or its vectors
            are not those the router learned from.
        MissingDependencyError: An extra is not installed.
    """
    if not isinstance(described, dict):
        raise InvalidRouterError(f"a router's encoder must be described by an object; got {type(described).__name__}")
    values = dict(described)
    kind, claimed = values.pop("kind", None), values.pop("fingerprint", None)
    builders: dict[str, Callable[[State, Collection[str]], Encoder]] = {
        "static": _static,
        "onnx": _onnx,
        "sentence-transformers": _sentence_transformers,
        "endpoint": _endpoint,
    }
    build = builders.get(kind) if isinstance(kind, str) else None
    if build is None:
        raise InvalidRouterError(
            f"the router's encoder must be one of {list(builders)}; got {str(kind)[:80]!r}: upgrade pointsman,"
            " or give the router the encoder it was fitted with"
        )
    try:
        encoder = build(values, _trusted_from_environment() if trusted is None else trusted)
    except (InvalidParameterError, TypeError, KeyError, AttributeError) as error:
        raise InvalidRouterError(f"the router's {kind} encoder is described wrongly ({error}); fit it again") from None
    found = encoder.describe()["fingerprint"]
    if found != claimed:
        raise InvalidRouterError(
            f"the router was fitted on vectors of the {kind} encoder {str(claimed)[:12]}, this installation's is"
            f" {found[:12]}: install the pointsman and the model it was fitted with, or fit it again"
        )
    return encoder


def encode_with_progress(
    encoder: Encoder, prompts: Sequence[str], *, show: bool, console: Console | None = None
) -> NDArray[np.float32]:
    """Return `encoder.encode(prompts)`, encoding repeated prompts once and showing a bar if it takes over two seconds.

    Args:
        encoder: Any encoder.
        prompts: What to encode.
        show: Whether to show progress.
        console: Where to show it; standard error where None.

    Returns:
        Context, (n_prompts, n_features); `show` does not change it.
    """
    checked = check_prompts(prompts)
    place: dict[str, int] = {}
    rows = np.array([place.setdefault(prompt, len(place)) for prompt in checked], dtype=np.int64)
    unique = list(place)
    if not show:
        return np.asarray(encoder.encode(unique), dtype=np.float32)[rows]

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console or Console(stderr=True))
    task = progress.add_task("encoding prompts", total=len(unique))
    context = np.empty((len(unique), encoder.n_features), dtype=np.float32)
    began = time.monotonic()
    shown = False
    try:
        for start in range(0, len(unique), _PROMPTS_A_STEP):
            step = unique[start : start + _PROMPTS_A_STEP]
            context[start : start + len(step)] = encoder.encode(step)
            progress.advance(task, len(step))
            if not shown and time.monotonic() - began > _QUIET_S:
                progress.start()
                shown = True
    finally:
        if shown:
            progress.stop()
    return context[rows]


def _static(values: State, trusted: Collection[str]) -> Encoder:
    from pointsman.encode.static import StaticEncoder

    del trusted
    return StaticEncoder(max_tokens=_integer(values, "max_tokens"))


def _onnx(values: State, trusted: Collection[str]) -> Encoder:
    from pointsman.encode.onnx import OnnxEncoder

    del trusted
    return OnnxEncoder(max_tokens=_integer(values, "max_tokens"))


def _sentence_transformers(values: State, trusted: Collection[str]) -> Encoder:
    from pointsman.encode.sentence_transformers import SentenceTransformerEncoder

    _check_trusted(values["model"], "model", trusted)
    return SentenceTransformerEncoder(values["model"])


def _endpoint(values: State, trusted: Collection[str]) -> Encoder:
    from pointsman.encode.endpoint import EndpointEncoder

    encoder = EndpointEncoder(**values)
    _check_trusted(encoder.base_url, "endpoint", [url.rstrip("/") for url in trusted])
    return encoder


def _integer(values: State, name: str) -> int:
    value: Any = values[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParameterError(f"{name} must be an integer; got {str(value)[:80]!r}")
    return value


def _check_trusted(name: str, what: str, trusted: Collection[str]) -> None:
    if name not in trusted:
        raise InvalidRouterError(
            f"the router's encoder is the {what} {name!r}, which would be sent or run what you route; if you trust it,"
            f" list it in the environment variable {TRUSTED_ENV} or in trusted="
        )


def _trusted_from_environment() -> list[str]:
    return [name.strip() for name in os.environ.get(TRUSTED_ENV, "").split(",") if name.strip()]
