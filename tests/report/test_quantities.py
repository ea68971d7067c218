"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from pointsman.report.quantities import PLAIN, POINTS, SHARE, USD, Span, brief


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (POINTS.estimate(0.019, 0.004, 0.034, signed=True), "+1.9 (+0.4 to +3.4)"),
        (POINTS.estimate(-0.0003, -0.0012, 0.0006, signed=True), "\u22120.03 (\u22120.12 to +0.06)"),
        (POINTS.estimate(0.78123, 0.78101, 0.78148), "78.12 (78.10 to 78.15)"),
        (POINTS.estimate(0.5, None, None), "50.0 (no interval)"),
        (POINTS.show(-0.00001, decimals=1, signed=True), "0.0"),
        (USD.show(0.00331), "$3.31"),
        (USD.show(0.0000123), "$0.012"),
        (USD.show(-0.0009, signed=True), "\u2212$0.90"),
        (USD.show(12.5), "$12,500.00"),
        (SHARE.show(0.61), "61%"),
        (SHARE.show(0.018), "1.8%"),
        (SHARE.show(0.0), "0%"),
        (PLAIN.show(None), "\u2013"),
        (PLAIN.show(math.inf), "unbounded"),
        (POINTS.interval(-math.inf, 0.1), "\u2212unbounded to 10.0"),
        (brief(12.3), "12.3"),
        (brief(160.0), "160"),
        (brief(0.0), "0"),
        (brief(0.00412), "0.00412"),
        (brief(1.2e-7), "1.20e\u221207"),
    ],
)
def test_numbers_have_the_digits_they_need(shown, expected):
    """Signs, units and digits are those a reader expects, and numbers that stand together have the same digits."""
    assert shown == expected


def test_a_span_holds_its_values_and_zero():
    """Every place lies on the drawing, in order."""
    span = Span.over(0.3, 0.9, None, math.inf)

    places = [float(span.place(value).rstrip("%")) for value in (0.0, 0.3, 0.9)]
    assert 0 < places[0] < places[1] < places[2] < 100


def test_a_span_of_nothing_has_a_middle():
    """Where all is zero, zero stands in the middle."""
    assert Span.over(0.0).place(0.0) == "50.00%"
