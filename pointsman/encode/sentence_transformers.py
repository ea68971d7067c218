"""Any model of the sentence-transformers library that is already on this machine."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.encode.base import check_prompts, fingerprint, unit_rows
from pointsman.encode.text import bound_text
from pointsman.errors import InvalidParameterError, MissingDependencyError
from pointsman.types import State

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CHARACTERS_PER_TOKEN: Final = 4  # few enough that the tail mostly survives the library's own cut, which keeps the head


class SentenceTransformerEncoder:
    """A sentence-transformers model, read from local files on the CPU, without running code that comes with it.

    Prompts run one at a time, so that a row does not depend on the others. The model is read when the encoder is
    made, and its fingerprint is that of its weights and vocabulary: a renamed or moved model is the same encoder.

    Args:
        model_name: Name in the local Hugging Face cache, or a folder; its weights must be safetensors.

    Raises:
        MissingDependencyError: The extra is not installed, or the model is not on this machine.
    """

    kind: ClassVar[str] = "sentence-transformers"

    def __init__(self, model_name: str) -> None:
        if not model_name:
            raise InvalidParameterError("model_name must not be empty; got ''")
        self.model_name = model_name
        self.n_features, self._fingerprint = _identity(model_name)

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Return the context of each prompt, (n_prompts, n_features).

        Raises:
            InvalidParameterError: `prompts` is not a list of strings.
        """
        checked = check_prompts(prompts)
        model = _loaded(self.model_name)
        rows = np.zeros((len(checked), self.n_features), dtype=np.float32)
        for row, prompt in enumerate(checked):
            text = bound_text(prompt, max_characters=_CHARACTERS_PER_TOKEN * _max_tokens(model))
            rows[row] = model.encode(text, show_progress_bar=False, convert_to_numpy=True)
        return unit_rows(rows)

    def describe(self) -> State:
        """Return what `encode.load` needs to rebuild this encoder."""
        return {"kind": self.kind, "model": self.model_name, "fingerprint": self._fingerprint}

    def __repr__(self) -> str:
        return f"SentenceTransformerEncoder({self.model_name!r})"


_lock = threading.Lock()


def _loaded(model_name: str) -> SentenceTransformer:
    with _lock:
        return _read(model_name)


@functools.cache
def _read(model_name: str) -> SentenceTransformer:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependencyError(
            "this encoder needs sentence-transformers: pip install 'pointsman[sentence-transformers]'"
        ) from error
    try:
        return SentenceTransformer(
            model_name,
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError) as error:
        raise MissingDependencyError(
            f"the model {model_name!r} is not on this machine as safetensors ({error}); download it, or give its folder"
        ) from error


@functools.cache
def _identity(model_name: str) -> tuple[int, str]:
    """Return the number of features and the fingerprint of a model."""
    model = _loaded(model_name)
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.float().numpy().tobytes())
    vocabulary = hashlib.sha256(repr(sorted(model.tokenizer.get_vocab().items())).encode())
    row = model.encode("a", show_progress_bar=False, convert_to_numpy=True)
    return len(row), fingerprint(
        kind=SentenceTransformerEncoder.kind,
        weights_sha256=weights.hexdigest(),
        vocabulary_sha256=vocabulary.hexdigest(),
        max_tokens=_max_tokens(model),
        modules=repr([type(module).__name__ for module in model]),
    )


def _max_tokens(model: SentenceTransformer) -> int:
    return int(model.max_seq_length or 512)
