"""The default encoder: WordLlama's static token vectors, summed. Fast enough to sit in the path of every request."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
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

_SPACE: Final = "\u2581"
"""What the tokenizer writes for a space."""
_WORD: Final = re.compile(" +[^ ]+| +$")
_NOT_BY_WORDS: Final = re.compile(f"{_SPACE}|<s>|</s>|<unk>")
_MAX_WORDS: Final = 65_536
_MAX_WORD_CHARACTERS: Final = 40


class StaticEncoder:
    """WordLlama l2_supercat, 256 features: the mean of a prompt's token vectors, scaled to unit length.

    A prompt of no tokens (the empty string) gets the zero vector. A prompt's row is the same to the bit alone and
    among others: each is summed by itself, token after token, in float32. The vectors are read once a process, at the
    first `encode`, and shared by all instances and threads (33 MB, and some 15 MB of words already met).

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
            for row, tokens in enumerate(tokenizer.tokens(texts), start):
                if tokens:
                    kept = cut_tokens(tokens, max_tokens=self.max_tokens)
                    vectors.take(kept, axis=0).sum(axis=0, out=sums[row])
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


class WordTokenizer:
    """Gives the tokens of the tokenizer within, in a quarter of the time, by remembering those of each word.

    A word is what stands up to the next space, with the spaces before it. The tokenizer works on a text as one piece;
    but no token of this vocabulary holds a space that follows something else, so none spans two words.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, without marks of its start or end."""
        if len(texts) == 1 and (of_one := self._if_known(texts[0])) is not None:
            return [of_one]
        # The tokenizer, too, begins by putting a space before a text. It reads some texts otherwise than by words.
        words = [_WORD.findall(f" {text}") if text and not _NOT_BY_WORDS.search(text) else None for text in texts]
        known = self._known
        met = {word: known.get(word) for row in words if row is not None for word in row}
        unknown = [word for word, tokens in met.items() if tokens is None]
        if unknown:
            # The first space of a word is the one the tokenizer puts before it.
            fresh = dict(zip(unknown, self._whole([word[1:] for word in unknown]), strict=True))
            if " " in fresh:
                fresh[" "] = [self.tokenizer.token_to_id(_SPACE)]
            met.update(fresh)
            if len(known) > _MAX_WORDS:
                known = self._known = {}
            known.update((word, tokens) for word, tokens in fresh.items() if len(word) <= _MAX_WORD_CHARACTERS)
        return [
            self._whole([text])[0] if row is None else [token for word in row for token in met[word] or ()]
            for text, row in zip(texts, words, strict=True)
        ]

    def _if_known(self, text: str) -> list[int] | None:
        """Return the tokens of a text whose words have all been met, None of another: a request waits for this."""
        if not text or _NOT_BY_WORDS.search(text):
            return None
        known = self._known
        try:
            return [token for word in _WORD.findall(f" {text}") for token in known[word]]
        except KeyError:
            return None

    def _whole(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


_lock = threading.Lock()


def _loaded() -> tuple[NDArray[np.float32], WordTokenizer]:
    with _lock:
        return _read()


@functools.cache
def _read() -> tuple[NDArray[np.float32], WordTokenizer]:
    from safetensors.numpy import load
    from tokenizers import Tokenizer

    # wordllama itself is never imported: that would configure the root logger.
    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("the static encoder needs wordllama: pip install wordllama==0.4.0.post1")
    folder = Path(spec.origin).parent
    weights = read_pinned(folder / "weights" / "l2_supercat_256.safetensors", sha256=WEIGHTS_SHA256)
    tokenizer = read_pinned(folder / "tokenizers" / "l2_supercat_tokenizer_config.json", sha256=TOKENIZER_SHA256)
    vectors = load(weights)["embedding.weight"].astype(np.float32)
    return vectors, WordTokenizer(Tokenizer.from_str(tokenizer.decode("utf-8")))


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
