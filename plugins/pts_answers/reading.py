r"""Finds the answer in a text. In this order:

1. the last complete \boxed{…} (or \fbox{…});
2. the line after the last ####, if it is a number or a formula (a heading is not);
3. what follows the last "answer is" or "answer:", up to the end of the clause: all of it, or the
   last formula between dollar signs in it, or the last number in it;
4. the whole text if it is one line with nothing but a number or a formula; else the last number
   that stands alone: not an operand, an exponent or part of a word.

An answer must be complete. A text that still thinks has none; one that was cut off at the horizon
has the first kind, and the second and third if something shows that they had ended.
"""

from __future__ import annotations

import re

from pts_answers.notation import LONGEST, SCALE, latex
from pts_answers.quantities import CURRENCY, DIGITS, quantity

NEAR_THE_END = 100  # characters

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_MARK = re.compile(r"\banswers?[*_ ]{0,4}(?::|=|(?:is|are)\b(?!\s+not\b))[\s*_:=]*", re.IGNORECASE)
_CLAUSE_END = re.compile(
    r"\n|\.(?=\s)|[?!](?=\s*(?:\n|$)|\s+[A-Z])"
    r"|[,;]?\s(?:because|since|as|which|so|where|when|for)\b"
)
_FORMULA = re.compile(r"\$([^$]+)\$|\\\(([^$]+?)\\\)")
# No formula begins with two words, and most texts do: this spares them a closer look.
_PROSE = re.compile(
    r"(?!(?:sqrt|infty|sin|cos|tan|log|exp)\b)(?:[A-Za-z]{3,}|So|We|To|It|If|In|By),? [A-Za-z]"
)
_OPERATOR = r"[+/^×·÷]"
_NUMBER = re.compile(
    rf"""(?<! [\w.,^{{\\/] ) (?<! \d: )
    (?<! {_OPERATOR} ) (?<! {_OPERATOR}\s ) (?<! [\d)}}]- ) (?<! [\d)}}]\s- ) (?<! [\d)}}]\s-\s )
    (?: [+-] (?<! [\w)}}\]]. ) (?<! [\d)}}\]]\s. ) )?
    {CURRENCY}?+ [+-]?
    (?: \\[dt]?frac\s?\{{\d++\}}\{{\d++\}} | {DIGITS} (?:\s?/\s?\d++)?+ (?:\s?\\?%)?+ )
    (?! \w | \s{SCALE} | \s?{_OPERATOR} | \s?-\s?\d | [.,:]\d | \\(?!text|mathrm|mbox)[A-Za-z] )""",
    re.VERBOSE,
)


def answer_in(text: str, *, truncated: bool = False) -> str | None:
    """The answer that a completion gives, as it is written there; None if it gives none."""
    said = without_thinking(text)
    if said is None:
        return None
    marked, found = _marked(said, truncated)
    if found or truncated:
        return marked
    said = said.strip()
    whole = "\n" not in said and not _PROSE.match(said) and is_mathematics(said)
    return said if whole else _last_number(said)


def reference_in(text: str) -> str:
    """The answer that a dataset's answer column gives: the marked one, or else all of it."""
    marked, found = _marked(text, truncated=False)
    return marked if found and marked is not None else text


def without_thinking(text: str) -> str | None:
    """The text less its <think>…</think> blocks; None if it ends inside one.

    A block whose opening tag is missing was opened by the prompt.
    """
    *blocks, rest = text.split("</think>")
    if "<think>" in rest:
        return None
    openings = (block.partition("<think>") for block in blocks)
    return "".join([*(before for before, tag, _ in openings if tag), rest])


def _marked(text: str, truncated: bool) -> tuple[str | None, bool]:
    """The answer that the text points out, and whether it points one out at all."""
    if (content := boxed(text)) is not None:
        return content, True
    line, newline, _ = text.rpartition("####")[2][: LONGEST + 1].partition("\n")
    if "####" in text and (newline or not truncated) and is_mathematics(line):
        return line, True
    marks = list(_MARK.finditer(text))
    if not marks:
        return None, False
    rest = text[marks[-1].end() :][: LONGEST + 1]
    end = _CLAUSE_END.search(rest)
    if truncated and not end:
        return None, True
    return _in_clause(rest[: end.start()] if end else rest), True


def is_mathematics(text: str) -> bool:
    return quantity(text) is not None or latex(text) is not None


def boxed(text: str) -> str | None:
    """What is in the last box that is closed, and not empty. One pass, however many braces."""
    if "boxed" not in text and "fbox" not in text:
        return None
    content = None
    open_braces: list[int | None] = []  # where a box's content starts; None for other braces
    for brace in _BRACES.finditer(text):
        if brace[0] == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None and text[start : brace.start()].strip():
                content = text[start : brace.start()]
        elif brace[0][-1] == "{" and brace[0] != r"\{":
            open_braces.append(brace.end() if brace[0] != "{" else None)
    # A box inside the box says the same.
    return content if content is None or len(content) > LONGEST else boxed(content) or content


def _in_clause(clause: str) -> str | None:
    if is_mathematics(clause):
        return clause
    formulas: list[str] = [dollars or brackets for dollars, brackets in _FORMULA.findall(clause)]
    if formulas and is_mathematics(formulas[-1]):
        return formulas[-1]
    return _last_number(clause)


def _last_number(text: str) -> str | None:
    # Most end with it: first the end of the text alone. What stands before is still seen there.
    for start in (max(0, len(text) - NEAR_THE_END), 0):
        last: str | None = None
        for match in _NUMBER.finditer(text, start):
            last = match[0]
        if last is not None:
            return last
    return None
