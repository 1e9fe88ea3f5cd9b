"""Plain numbers, read and compared exactly."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from pts_answers.notation import tidy

DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++)(?:\.\d++)?+|\.\d++)"
CURRENCY = r"(?:\\?\$|[€£¥₹])"

_INTEGER = re.compile(r"-?\d{1,15}", re.ASCII)
_SIGNED = rf"[+-]?\s?{DIGITS}"
_NUMBER = re.compile(rf"({_SIGNED})(?:[eE]([+-]?\d{{1,3}}))?")
_SPACED = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_POWER = re.compile(
    rf"(?:({_SIGNED})\s*(?:\\times|\\cdot|\*|x)\s*)?10\s*\^\s*(?:\{{([+-]?\d{{1,3}})\}}|(\d{{1,3}}))"
)
_FRACTION = re.compile(rf"([+-]?)\s*(?:(\d+)\s+)?({_SIGNED})\s*/\s*({DIGITS})")
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\overline\s*\{(\d+)\}")
_FRAC = re.compile(rf"\\frac\s*(?:\{{\s*({_SIGNED})\s*\}}|(\d))\s*(?:\{{\s*({DIGITS})\s*\}}|(\d))")
# In "x = 15" and "17 + 25 = 42" the number is what follows; in "x^2 + y^2 = 4" it is not.
_LEAD = re.compile(
    r"\s*(?:\\?[A-Za-z]\w*(?:_\{\w+\})?(?:\([A-Za-z]\))?\s*(?:=|$))?"
    r"(?:[\s=\d.,(){}!+*/÷^$%-]|\sx\s|\\(?:times|cdot|div|frac|sqrt|pi)(?![A-Za-z]))*"
)


class Quantity(NamedTuple):
    """A number as it was written: with a decimal point perhaps, or a percent sign."""

    value: Fraction
    decimal: bool
    percent: bool

    @property
    def readings(self) -> tuple[Fraction, ...]:
        return (self.value, self.value / 100) if self.percent else (self.value,)

    @property
    def latex(self) -> str:
        """A decimal stays one: math-verify compares those numerically, and fractions exactly."""
        top, bottom = self.value.as_integer_ratio()
        if self.decimal:
            return format(Decimal(top) / Decimal(bottom), "f")
        return str(top) if bottom == 1 else rf"\frac{{{top}}}{{{bottom}}}"


@lru_cache(maxsize=1 << 16)
def quantity(text: str) -> Quantity | None:
    """The number that a text is, unit and currency aside; None if it is anything else."""
    if _INTEGER.fullmatch(text):  # most are, and need none of what follows
        return Quantity(Fraction(int(text)), decimal=False, percent=False)
    text = tidy(text)
    lead, equals, last = text.rpartition("=")
    if equals and _LEAD.fullmatch(lead):
        text = tidy(last)
    text = re.sub(rf"^([+-]?)\s*{CURRENCY}\s*", r"\1", text)
    digits = re.sub(r"\s*\\?%$", "", text)
    value = _value(digits)
    return None if value is None else Quantity(value, "." in digits, digits != text)


def same(gold: Quantity, answer: Quantity, tolerance: Fraction) -> bool:
    """Are they the same number? A decimal may be off by `tolerance`, relative to the gold one.

    A percent sign that only one of the two has may be a unit or a hundredth: "50%" is the answer
    50 to "what percentage?", and it is 0.5.
    """
    rounded = gold.decimal or answer.decimal

    def close(a: Fraction, b: Fraction) -> bool:
        return a == b or (rounded and abs(a - b) <= tolerance * abs(a))

    if gold.percent == answer.percent:
        return close(gold.value, answer.value)
    return any(close(a, b) for a in gold.readings for b in answer.readings)


def _value(text: str) -> Fraction | None:
    text = _FRAC.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]}", text).strip()
    try:
        if match := _NUMBER.fullmatch(text):
            return _parsed(match[1]) * Fraction(10) ** int(match[2] or 0)
        if _SPACED.fullmatch(text):
            return _parsed(text)
        if match := _POWER.fullmatch(text):
            return _parsed(match[1] or "1") * Fraction(10) ** int(match[2] or match[3])
        if match := _FRACTION.fullmatch(text):
            sign, whole, top, bottom = match.groups(default="0")
            value = int(whole) + _parsed(top) / _parsed(bottom)
            return -value if sign == "-" else value
        if match := _REPEATING.fullmatch(text):
            return _repeating(*match.groups())
    except ZeroDivisionError:
        return None
    return None


def _parsed(digits: str) -> Fraction:
    return Fraction(re.sub(r"[,\s]", "", digits))


def _repeating(sign: str, whole: str, fixed: str, period: str) -> Fraction:
    """0.1666… from its parts: (16 - 1) / 90."""
    start = int(whole + fixed or "0")
    value = Fraction(int(f"{start}{period}") - start, (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if sign == "-" else value
