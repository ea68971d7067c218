"""What is cut from a long prompt before it is encoded.

The head and the tail are kept, in equal parts. Prompts often open with a preamble that many share (a system prompt,
worked examples) and end with the question; others open with the question and end with pasted material. The middle is
what either kind can lose: with the head alone, all prompts of one long preamble would get the same vector.
"""

from __future__ import annotations

from collections.abc import Sequence

CHARACTERS_PER_TOKEN = 6
"""English has about four; text of longer tokens is cut a little before the token limit."""


def bound_text(prompt: str, *, max_characters: int) -> str:
    """Return at most `max_characters` of the prompt, and only characters that UTF-8 can hold.

    Bounding characters before tokens keeps a prompt of 10 MB as cheap as one of `max_characters`.
    """
    if len(prompt) > max_characters:
        n_tail = max_characters // 2
        # A line between the halves keeps the tokenizer from joining words that never met.
        prompt = f"{prompt[: max_characters - n_tail - 1]}\n{prompt[len(prompt) - n_tail :]}"
    if prompt.isascii():
        return prompt
    # JSON can carry half of a surrogate pair, which tokenizers refuse.
    return prompt.encode("utf-8", "replace").decode("utf-8")


def cut_tokens(tokens: Sequence[int], *, max_tokens: int) -> Sequence[int]:
    """Return at most `max_tokens` of the tokens, half from the head and half from the tail."""
    if len(tokens) <= max_tokens:
        return tokens
    n_tail = max_tokens // 2
    return [*tokens[: max_tokens - n_tail], *tokens[len(tokens) - n_tail :]]
