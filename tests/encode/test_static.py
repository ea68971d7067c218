"""The default encoder: pinned, fast to load, the same row in any company."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyarrow import parquet

from pointsman.encode import static
from pointsman.encode.base import Encoder
from pointsman.encode.static import StaticEncoder, read_pinned
from pointsman.errors import InvalidParameterError, MissingDependencyError

PROMPTS = [
    "What is the capital of France?",
    "",
    " ",
    "a",
    "Écris une fonction 🙂 模型 ٣",
    "half a pair \ud800 of surrogates",
    "nul \x00 and <s> marks </s>",
    "def f(x):\n\treturn x + 1\n" * 200,
    "word " * 5000,
]


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the cosine of two unit rows."""
    return float(first @ second)


def test_it_is_an_encoder_of_unit_rows() -> None:
    """Shape, dtype and length; the empty prompt is the one row of zeros."""
    encoder = StaticEncoder()

    context = encoder.encode(PROMPTS)

    assert isinstance(encoder, Encoder)
    assert context.shape == (len(PROMPTS), encoder.n_features) == (len(PROMPTS), 256)
    assert context.dtype == np.float32
    lengths = np.linalg.norm(context.astype(np.float64), axis=1)
    # A float32 rounds each of 256 entries by at most 2^-24 of itself, and so the length by no more than 2^-24 of one.
    np.testing.assert_allclose(lengths, np.array(PROMPTS) != "", atol=2**-23)
    assert encoder.encode([]).shape == (0, 256)


def test_a_row_does_not_depend_on_the_others() -> None:
    """Alone, in a batch, in another order, among 2,000: the same bits."""
    encoder = StaticEncoder()
    together = encoder.encode(PROMPTS)

    alone = np.concatenate([encoder.encode([prompt]) for prompt in PROMPTS])
    crowded = encoder.encode([f"prompt {i}" for i in range(2000)] + PROMPTS)[2000:]

    assert together.tobytes() == alone.tobytes() == crowded.tobytes()
    assert together[::-1].tobytes() == encoder.encode(PROMPTS[::-1]).tobytes()


def test_it_is_the_mean_of_token_vectors() -> None:
    """Within the limit the row is the plain mean, scaled; float32 sums differ from float64 ones by 2^-24 a term."""
    vectors, tokenizer = static._loaded()
    prompt = "Which model should answer this prompt?"
    (tokens,) = tokenizer.tokens([prompt])
    mean = vectors[tokens].astype(np.float64).mean(axis=0)

    (row,) = StaticEncoder().encode([prompt])

    np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=len(tokens) * 2**-24 * 4)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(texts=st.lists(st.text(st.sampled_from("  \n\tab.,0é模🙂▁<s>/unk\u00a0"), max_size=60), max_size=4))
def test_tokens_by_words_are_those_of_the_whole_text(texts: list[str]) -> None:
    """Runs of spaces, leading and trailing ones, other blanks, the space mark and marks of start and end included."""
    _, tokenizer = static._loaded()
    texts = [*texts, *(text.replace(" ", "<s> ") for text in texts)]

    whole = tokenizer.tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    assert tokenizer.tokens(texts) == [encoding.ids for encoding in whole]
    assert tokenizer.tokens(texts) == [encoding.ids for encoding in whole]


@pytest.mark.data
@pytest.mark.parametrize("name", ["routerbench_subset", "llmrouter", "routerdc_7x7b"])
def test_tokens_by_words_are_those_of_real_prompts(shared_data: Path, name: str) -> None:
    """Code, mathematics and Chinese among them."""
    table = parquet.read_table(shared_data / f"{name}.parquet", columns=["prompt"])
    prompts = table["prompt"].unique().to_pylist()[:2000]
    _, tokenizer = static._loaded()

    whole = tokenizer.tokenizer.encode_batch_fast(prompts, add_special_tokens=False)

    assert tokenizer.tokens(prompts) == [encoding.ids for encoding in whole]


def test_no_token_spans_two_words() -> None:
    """The fact about the vocabulary on which tokenizing by words rests."""
    _, tokenizer = static._loaded()

    assert [token for token in tokenizer.tokenizer.get_vocab() if "▁" in token.lstrip("▁")] == []


def test_remembered_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many words are forgotten, long ones never kept, and the tokens stay the same."""
    monkeypatch.setattr(static, "_MAX_WORDS", 10)
    tokenizer = static.WordTokenizer(static._loaded()[1].tokenizer)
    texts = [f"word{i} {'x' * 50} " for i in range(100)]

    for text in texts:
        assert tokenizer.tokens([text]) == static._loaded()[1].tokens([text])
    assert len(tokenizer._known) <= 13
    assert max(map(len, tokenizer._known)) <= 40


def test_near_meanings_get_near_rows() -> None:
    """Two questions on cooking are closer to each other than to one on integrals."""
    pasta, rice, integral = StaticEncoder().encode(
        ["How long do I cook pasta?", "How do I cook rice in a pan?", "Evaluate the integral of x squared"]
    )

    assert cosine(pasta, rice) > cosine(pasta, integral) + 0.1


def test_the_question_at_the_end_of_a_long_preamble_counts() -> None:
    """Two prompts that differ in their last line alone, after 20,000 shared characters, get different rows."""
    preamble = "You are a careful assistant. Follow the rules below. " * 400
    first, second = StaticEncoder().encode([preamble + "Translate to French.", preamble + "Prove this theorem."])

    assert cosine(first, second) < 1 - 1e-4


def test_the_middle_of_a_huge_prompt_is_not_read() -> None:
    """What stands between head and tail changes nothing, so a prompt of 10 MB costs what a cut one does."""
    head, tail = "head " * 1000, "tail " * 1000

    first, second = StaticEncoder().encode([head + "x" * 10_000_000 + tail, head + "y" * 100_000 + tail])

    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 512])
def test_any_limit_works(max_tokens: int) -> None:
    """Down to one token, a row is still of unit length."""
    rows = StaticEncoder(max_tokens=max_tokens).encode(["many words " * 3000])

    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_the_fingerprint_is_that_of_the_vectors() -> None:
    """Same settings, same fingerprint; another limit, another; and it is known before anything is read."""
    assert StaticEncoder().describe() == StaticEncoder().describe()
    assert StaticEncoder().describe()["fingerprint"] != StaticEncoder(max_tokens=100).describe()["fingerprint"]


@pytest.mark.parametrize("prompts", ["one string", [1], [None], ["a", b"b"]])
def test_prompts_must_be_a_list_of_strings(prompts: object) -> None:
    """Above all not one string, whose characters would pass for prompts."""
    with pytest.raises(InvalidParameterError, match="prompts must be"):
        StaticEncoder().encode(prompts)  # type: ignore[arg-type]


def test_limits_below_one_are_refused() -> None:
    """There is no prompt of no tokens to cut to."""
    with pytest.raises(InvalidParameterError, match="max_tokens must be >= 1; got 0"):
        StaticEncoder(max_tokens=0)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    """A weight file that is absent or not the pinned one says which package to install."""
    (tmp_path / "weights").write_bytes(b"other")

    with pytest.raises(MissingDependencyError, match=r"sha256 64b47a2dc493\.\.\.; got d9298a10d1b0"):
        read_pinned(tmp_path / "weights", sha256=static.WEIGHTS_SHA256)
    with pytest.raises(MissingDependencyError, match="cannot be read"):
        read_pinned(tmp_path / "nowhere", sha256=static.WEIGHTS_SHA256)


def test_threads_that_start_together_get_the_same_rows() -> None:
    """The first use may come from many threads at once; the weights are read once."""
    static._read.cache_clear()
    rows: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: rows.append(StaticEncoder().encode(["hello"]).tobytes())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(rows) == 8
    assert len(set(rows)) == 1
    assert static._read.cache_info().misses == 1


def test_encoding_touches_neither_logging_nor_the_network() -> None:
    """The wordllama package would configure the root logger and import requests; only its files are read."""
    script = (
        "import logging, sys\n"
        "from pointsman.encode import default_encoder\n"
        "assert 'tokenizers' not in sys.modules\n"
        "default_encoder().encode(['hello'])\n"
        "assert logging.getLogger().handlers == []\n"
        "assert not {'wordllama', 'requests', 'torch'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)  # noqa: S603
