"""The many ways of writing one formula, brought to one: plain text, markdown and LaTeX.

What is dropped, on purpose: emphasis, math delimiters, the period of a sentence, degree signs, and
the unit after a number, so that "15 dollars" and "$15" are 15.
"""

from __future__ import annotations

import re
from functools import lru_cache

# What exceeds these is not an answer, and would keep a computer algebra system busy.
LONGEST = 500  # characters
DEEPEST = 30  # braces within braces
_HUGE_POWER = re.compile(r"\^\s*\{?\s*[+-]?\d{6}")

_ANDOR = r"(?:and|or)\b"
SCALE = r"(?:hundred|thousand|million|billion|trillion|dozen|half|quarter)"  # not units
_ABBREVIATED = (
    "cm|mm|km|kg|mg|mL|ml|ft|mi|yd|lbs?|oz|hrs?|mins?|secs?|mph|kph|am|pm|AM|PM|[KMGT]B|[kM]?Hz"
)
# A unit follows a number after a space, or directly if it is an abbreviation: 2xyz is a product.
_UNIT = re.compile(
    rf"""(?: (?<=[\d}})%$]) | (?<=\\pi) )
    (?: \s+(?!{_ANDOR}|{SCALE}) (?:[A-Za-z]{{3,}}|of|in|m/s) | \s*(?:{_ABBREVIATED})\b )
    [A-Za-z./'-]*
    (?: \s+(?!{_ANDOR}|{SCALE}) [A-Za-z][A-Za-z./'-]* )*
    (?: \^?\{{?[23]\}}? )? $""",
    re.VERBOSE,
)
_LATEX_UNIT = re.compile(
    r"(?:(?<=[\d})%])|(?<=\\pi))"
    r"\s*\\(?:text\w*|mbox|mathrm|rm)\s*\{[A-Za-z ./'^23-]+\}(?:\s*\^\s*\{?[23]\}?)?$"
)
_DEGREES = re.compile(r"(?:\s*\^\s*\{?\s*\\circ\s*\}?|\s*°)\s*[CF]?$")

_UNICODE = str.maketrans(
    {
        "\u2212": "-",  # the minus sign; a dash is none, it makes ranges
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "∪": r"\cup ",
        "±": r"\pm ",
        "²": "^2",
        "³": "^3",
        "₂": "_2",
        "\u00a0": " ",
        "\u2009": r"\,",
        "\u202f": r"\,",
    }
)
_SPACING = [
    (re.compile(r"\\([dt])frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])"), ""),
    (re.compile(r"(?<!\\)\\!\s*"), ""),
    (re.compile(r"(?<=\d)(?:\\[, ]|\{,\}|~)(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"(?i)\s*\bper ?cent\b"), "%"),
    (re.compile(r"\s+"), " "),
]
_DELIMITERS = [("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")]

_PLAIN = [
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*"), r"\\cdot "),
    (re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)|√\s*\(([^()]*)\)"), r"\\sqrt{\1\2}"),
    (re.compile(r"√\s*(\d+)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\A-Za-z])(pi|infty|sin|cos|tan|log|ln|exp)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\\text\s*\{\s*(?:and|or)\s*\}|(?<![\\A-Za-z])(?:and|or)(?![A-Za-z])"), ","),
    (re.compile(r",\s*,"), ","),
]
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?![\d,]))|(?<=\d),(?=\d{3},\d{3})")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\*?\}(?:\{[lcr|]+\})?")
_NAMED = re.compile(r"\\(?:operatorname|math[a-z]+)\s*\{[A-Za-z]+\}|\\[A-Za-z]+")
_WORD = re.compile(
    r"[A-Za-z]{3,}"
    r"|\b(?i:am|an|as|at|be|by|do|go|he|if|in|is|it|me|my|no|of|on|so|to|up|us|we)\b"
)
_TEXT = re.compile(r"\\(?:text|mbox)")
_NEIGHBOURS = re.compile(r"\d\s+\d")  # LaTeX would multiply them


@lru_cache(maxsize=4096)
def tidy(text: str) -> str:
    """The formula in a short text, without what surrounds it; "" if the text is too long."""
    if len(text) > LONGEST:
        return ""
    text = text.translate(_UNICODE)
    for pattern, replacement in _SPACING:
        text = pattern.sub(replacement, text)
    while (inner := _unwrapped(text)) != text:
        text = inner
    return text


@lru_cache(maxsize=4096)
def latex(text: str) -> str | None:
    """The formula of a text in LaTeX; None where the text is something else, or says more.

    Words are not mathematics: LaTeX would read "east" as e·a·s·t, and "seat" as the same.
    """
    text = tidy(text)
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    if not text.startswith((r"\{", "(", "[")) and text.count(",") == len(_THOUSANDS.findall(text)):
        text = text.replace(",", "")
    symbols = _NAMED.sub(" ", _ENVIRONMENT.sub(" ", text))
    if _WORD.search(symbols) or any(p.search(text) for p in (_TEXT, _NEIGHBOURS, _HUGE_POWER)):
        return None
    return text if text and text.isascii() and _is_balanced(text) else None


def _unwrapped(text: str) -> str:
    """The text less one layer of punctuation, unit or delimiters."""
    text = text.strip(" *_`\"'").rstrip(".,;:").strip()
    for ending in (_DEGREES, _LATEX_UNIT, _UNIT):
        text = ending.sub("", text)
    for left, right in _DELIMITERS:
        inner = text[len(left) : -len(right)]
        if inner and text == left + inner + right and left not in inner:
            return inner
    return text


def _is_balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if not 0 <= depth <= DEEPEST:
            return False
    return depth == 0
