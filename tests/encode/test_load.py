"""Rebuilding an encoder from its description, and encoding many prompts."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from counting import CountingEncoder
from rich.console import Console

import pointsman.encode
from pointsman.encode import default_encoder, encode_with_progress, load
from pointsman.encode.endpoint import EndpointEncoder
from pointsman.encode.onnx import OnnxEncoder
from pointsman.encode.static import StaticEncoder
from pointsman.errors import InvalidParameterError, InvalidRouterError

ENDPOINT = EndpointEncoder(base_url="https://host/v1", model="m", n_features=3, api_key_env="SOME_KEY", timeout_s=9.0)


@pytest.mark.parametrize(
    "encoder", [default_encoder(), StaticEncoder(max_tokens=99), OnnxEncoder(max_tokens=64), ENDPOINT], ids=repr
)
def test_a_described_encoder_comes_back(encoder: Any) -> None:
    """Through JSON, same class, same description."""
    described = json.loads(json.dumps(encoder.describe()))

    loaded = load(described, trusted=["https://host/v1/"])

    assert type(loaded) is type(encoder)
    assert loaded.describe() == encoder.describe()


def test_an_endpoint_is_not_used_unless_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's router must not be able to send prompts and an environment variable where it likes."""
    described = ENDPOINT.describe()
    monkeypatch.delenv("POINTSMAN_TRUSTED_ENCODERS", raising=False)
    with pytest.raises(InvalidRouterError, match=r"'https://host/v1'.*POINTSMAN_TRUSTED_ENCODERS"):
        load(described)
    with pytest.raises(InvalidRouterError, match="if you trust it"):
        load(described, trusted=["https://host", "https://host/v1/x"])

    monkeypatch.setenv("POINTSMAN_TRUSTED_ENCODERS", "some/model, https://host/v1")
    assert load(described).describe() == described


def test_a_model_is_not_read_unless_trusted() -> None:
    """A model folder may come with code."""
    described = {"kind": "sentence-transformers", "model": "./theirs", "fingerprint": "0"}

    with pytest.raises(InvalidRouterError, match=r"the model '\./theirs'"):
        load(described, trusted=[])


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({}, "must be one of"),
        ([], "must be described by an object"),
        ({"kind": "quantum"}, "got 'quantum'.*upgrade pointsman"),
        ({"kind": ["static"]}, "must be one of"),
        ({"kind": "static"}, "described wrongly"),
        ({"kind": "static", "max_tokens": "many"}, "max_tokens must be an integer"),
        ({"kind": "static", "max_tokens": True}, "max_tokens must be an integer"),
        ({"kind": "static", "max_tokens": 0}, "max_tokens must be >= 1"),
        ({"kind": "static", "max_tokens": 512, "fingerprint": "0" * 64}, "fit it again"),
        ({"kind": "static", "max_tokens": 512}, "fit it again"),
        ({"kind": "onnx", "max_tokens": 1}, "described wrongly"),
        ({"kind": "sentence-transformers"}, "described wrongly"),
        ({"kind": "endpoint"}, "described wrongly"),
        ({"kind": "endpoint", "base_url": 5, "model": "m", "n_features": 3}, "described wrongly"),
        ({"kind": "endpoint", "base_url": "file:///x", "model": "m", "n_features": 3}, "described wrongly"),
        (
            {"kind": "endpoint", "base_url": "https://h", "model": "m", "n_features": 3, "hook": "x"},
            "described wrongly",
        ),
    ],
)
def test_a_wrong_description_says_what_to_do(described: Any, message: str) -> None:
    """Unknown kinds, missing, wrong and extra values, another fingerprint: InvalidRouterError."""
    with pytest.raises(InvalidRouterError, match=message):
        load(described, trusted=["https://h"])


def test_repeated_prompts_are_encoded_once(counting: CountingEncoder) -> None:
    """Each prompt still gets its row, in place; showing progress changes nothing."""
    prompts = ["b", "a", "b", "c", "a"]
    console = Console(file=io.StringIO())

    quiet = encode_with_progress(counting, prompts, show=False)
    shown = encode_with_progress(counting, prompts, show=True, console=console)

    assert counting.asked == ["b", "a", "c"] * 2
    assert quiet.tobytes() == shown.tobytes() == CountingEncoder().encode(prompts).tobytes()
    assert quiet.dtype == np.float32
    with pytest.raises(InvalidParameterError, match="got one string"):
        encode_with_progress(counting, "prompt", show=False)


@pytest.mark.parametrize("show", [False, True])
def test_no_prompts_give_no_rows(counting: CountingEncoder, show: bool) -> None:
    """The shape still says how many features there are."""
    assert encode_with_progress(counting, [], show=show).shape == (0, counting.n_features)


def test_a_bar_is_shown_for_long_work_only(counting: CountingEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing within the two quiet seconds; after them a bar with the count, where it was asked for."""
    prompts = [str(i) for i in range(600)]
    for quiet_s, show, expected in ((1e9, True, ""), (-1.0, False, ""), (-1.0, True, "600/600")):
        monkeypatch.setattr(pointsman.encode, "_QUIET_S", quiet_s)
        console = Console(file=io.StringIO(), width=100)
        rows = encode_with_progress(counting, prompts, show=show, console=console)
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert expected in shown
        assert bool(expected) == bool(shown)
        assert rows.tobytes() == CountingEncoder().encode(prompts).tobytes()


def test_importing_the_room_is_light() -> None:
    """No tokenizer, progress bar, database or network library comes with it."""
    script = (
        "import sys, pointsman.encode\n"
        "heavy = {'tokenizers', 'safetensors', 'rich', 'sqlite3', 'urllib.request', 'onnxruntime', 'torch'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603
