"""What is cut from a long prompt."""

from __future__ import annotations

import pytest

from pointsman.encode.text import bound_text, cut_tokens


@pytest.mark.parametrize("max_characters", [3, 4, 7, 100])
def test_a_long_text_keeps_head_and_tail_within_the_bound(max_characters: int) -> None:
    """The result has exactly the bound's length, begins as the text does and ends as it does."""
    text = "abcdefgh" * 100 + "the question"

    cut = bound_text(text, max_characters=max_characters)

    assert len(cut) == max_characters
    head, tail = cut.split("\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert head
    assert tail


def test_a_short_text_stays_as_it_is() -> None:
    """Up to the bound nothing changes, whatever the alphabet."""
    for text in ("", "abc", "größe 模型 🙂", "a" * 20):
        assert bound_text(text, max_characters=20) == text


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    """JSON can carry one; UTF-8 cannot."""
    assert bound_text("a\ud800b", max_characters=20) == "a?b"


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 9, 10, 11])
def test_tokens_are_cut_in_the_middle(max_tokens: int) -> None:
    """Head and tail differ in length by at most one, and no token stands twice."""
    tokens = list(range(10))

    cut = list(cut_tokens(tokens, max_tokens=max_tokens))

    assert len(cut) == min(max_tokens, 10)
    assert cut == sorted(set(cut))
    if max_tokens < 10:
        n_tail = max_tokens // 2
        assert cut == tokens[: max_tokens - n_tail] + tokens[10 - n_tail :]
