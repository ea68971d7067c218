"""The default encoder: WordLlama's static token vectors, summed. Fast enough to sit in the path of every request."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.encode.base import check_prompts, fingerprint, unit_rows
from pointsman.encode.text import CHARACTERS_PER_TOKEN, bound_text, cut_tokens
from pointsman.errors import InvalidParameterError, MissingDependencyError
from pointsman.types import State

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEIGHTS_SHA256: Final = "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5"
TOKENIZER_SHA256: Final = "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"

_PROMPTS_A_BATCH: Final = 1024


class StaticEncoder:
    """WordLlama l2_supercat, 256 features: the mean of a prompt's token vectors, scaled to unit length.

    A prompt of no tokens (the empty string) gets the zero vector. A prompt's row is the same to the bit alone and
    among others: each is summed by itself, token after token, in float32. The vectors are read once a process, at the
    first `encode`, and shared by all instances and threads (33 MB).

    Args:
        max_tokens: Tokens kept of a prompt, half from its head and half from its tail; see `encode.text`.

    References:
        WordLlama, https://github.com/dleemiller/WordLlama (MIT); its weights are pinned by sha256.
    """

    kind: ClassVar[str] = "static"
    n_features: int = 256

    def __init__(self, *, max_tokens: int = 512) -> None:
        if max_tokens < 1:
            raise InvalidParameterError(f"max_tokens must be >= 1; got {max_tokens}")
        self.max_tokens = max_tokens

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Return the context of each prompt, (n_prompts, 256).

        Raises:
            InvalidParameterError: `prompts` is not a list of strings.
            MissingDependencyError: The installed wordllama is absent or holds other weights.
        """
        checked = check_prompts(prompts)
        vectors, tokenizer = _loaded()
        # The separator is a character too, hence at least one on either side of it.
        max_characters = max(CHARACTERS_PER_TOKEN * self.max_tokens, 3)
        sums = np.zeros((len(checked), self.n_features), dtype=np.float32)
        for start in range(0, len(checked), _PROMPTS_A_BATCH):
            texts = [bound_text(p, max_characters=max_characters) for p in checked[start : start + _PROMPTS_A_BATCH]]
            for row, encoding in enumerate(tokenizer.encode_batch_fast(texts, add_special_tokens=False), start):
                tokens = cut_tokens(encoding.ids, max_tokens=self.max_tokens)
                if tokens:
                    vectors.take(tokens, axis=0).sum(axis=0, out=sums[row])
        return unit_rows(sums)

    def describe(self) -> State:
        """Return what `encode.load` needs to rebuild this encoder."""
        return {
            "kind": self.kind,
            "model": "wordllama/l2_supercat_256",
            "max_tokens": self.max_tokens,
            "fingerprint": fingerprint(
                kind=self.kind,
                pooling="mean, head and tail, 1",
                weights_sha256=WEIGHTS_SHA256,
                tokenizer_sha256=TOKENIZER_SHA256,
                max_tokens=self.max_tokens,
            ),
        }

    def __repr__(self) -> str:
        return f"StaticEncoder(max_tokens={self.max_tokens})"


_lock = threading.Lock()


def _loaded() -> tuple[NDArray[np.float32], Tokenizer]:
    with _lock:
        return _read()


@functools.cache
def _read() -> tuple[NDArray[np.float32], Tokenizer]:
    from safetensors.numpy import load
    from tokenizers import Tokenizer

    # wordllama itself is never imported: that would configure the root logger.
    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("the static encoder needs wordllama: pip install wordllama==0.4.0.post1")
    folder = Path(spec.origin).parent
    weights = read_pinned(folder / "weights" / "l2_supercat_256.safetensors", sha256=WEIGHTS_SHA256)
    tokenizer = read_pinned(folder / "tokenizers" / "l2_supercat_tokenizer_config.json", sha256=TOKENIZER_SHA256)
    return load(weights)["embedding.weight"].astype(np.float32), Tokenizer.from_str(tokenizer.decode("utf-8"))


def read_pinned(path: Path, *, sha256: str) -> bytes:
    """Return a weight file's bytes.

    Raises:
        MissingDependencyError: The file is absent, or its sha256 is another.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingDependencyError(f"{path} cannot be read ({error.strerror}); install its package again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise MissingDependencyError(
            f"{path} must have the sha256 {sha256[:12]}...; got {found[:12]}...; install its package's pinned version"
        )
    return content
