"""YAML with the line of each value, one meaning a file, and the environment filled in."""

from __future__ import annotations

import pytest

from pointsman.gateway.settings.document import DocumentError, UnsetVariableError, interpolate, parse


def test_values_are_those_of_yaml_and_lines_those_of_their_names():
    """Numbers, booleans, dates, lists, anchors and merges are read; each place has the line of its name."""
    document = parse("a: &x {b: 1, c: yes}\nd:\n  - 0.5\n  - <<: *x\n    b: two\ne:\n")
    assert document.values == {"a": {"b": 1, "c": True}, "d": [0.5, {"b": "two", "c": True}], "e": None}
    assert [document.line(place) for place in (("a", "c"), ("d",), ("d", 0), ("d", 1, "b"), ("e",))] == [1, 2, 3, 5, 6]
    assert document.line(("d", 0, "no", "such")) == 3
    assert document.line(("x",)) is None
    assert parse("").values == {}


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "is there twice"),
        ("a:\n  b: {c: 1, c: 2}\n", 2, "is there twice"),
        ("- 1\n", None, "must be a mapping"),
        ("a: [1\nb: 2\n", 2, "is no valid YAML"),
        ("a: {b: ${X}}\n", 1, r"within \{ \} write"),
        ("a: !!python/name:os.system x\n", 1, "is no valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "is no valid YAML"),
        ("[a, b]: 1\n", 1, "must have names"),
        ("a: &x [*x]\n", 1, "must not hold itself"),
        ("a: 2026-13-45\n", None, "is no valid YAML"),
        ("a: " + "[" * 5000, None, "is no valid YAML"),
    ],
)
def test_what_cannot_be_read_one_way_is_refused(text, line, told):
    """With its line; nothing in a file is run."""
    with pytest.raises(DocumentError, match=told) as caught:
        parse(text)
    assert caught.value.line == line


def test_a_file_cannot_grow_without_end():
    """Aliases of aliases, a kilobyte that would hold 10^9 values, are refused at once."""
    text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    with pytest.raises(DocumentError, match="at most"):
        parse(text)


def test_variables_are_filled_in():
    """Set ones, defaults of unset and empty ones, several in a text; all other dollars stay."""
    environment = {"A": "1", "EMPTY": "", "DOLLAR": "${A}"}
    for text, filled in {
        "x${A}y${A}": "x1y1",
        "${NO:-d}": "d",
        "${EMPTY:-d}": "d",
        "${EMPTY}": "",
        "${NO:-}": "",
        "$A $$ 5$": "$A $$ 5$",
        "$${A}": "${A}",
        "${DOLLAR}": "${A}",
    }.items():
        assert interpolate(text, environment) == filled, text
    for text, told in {
        "${NO}": "NO, which is not set",
        "${1a}": "must name",
        "${": "must close",
        "${}": "must name",
    }.items():
        with pytest.raises(UnsetVariableError, match=told):
            interpolate(text, environment)
