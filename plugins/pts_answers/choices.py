r"""The option, or the yes or no, that a text settles on: what it states, never what it resembles.

It is looked for here, in this order, and the first place that there is decides:

1. the last \boxed{…};
2. what follows the last "answer is", "answer:" or "correct option is";
3. the last statement: for options a line that is a letter and no more ("(C)", "**C**", "C."), or a
   sentence such as "I choose C." and "Option C is correct."; for yes and no a sentence such as
   "Yes.", "No, it …" and "So it is not true.";
4. for options, the only line that gives a letter with its text ("C) a dog"), or a text that is one
   of the options as a whole.

A text that still thinks has no answer, nor has one whose statement a horizon may have cut off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pts_answers.quantities import quantity
from pts_answers.reading import boxed, without_thinking
from pts_core.errors import ProblemError
from pts_core.types import Completion, Problem

LETTERS = "ABCDEFGHIJ"

_DECORATION = re.compile(r"[*_`$]+|\\(?:text\w*|math\w+)\s*\{([^{}]*)\}|\\[()]")
_MARK = re.compile(
    r"\b(?:answers?|(?:correct|right|best)\s+(?:option|choice|letter))\s*"
    r"(?::|=|(?:is|would be|must be|should be)\b(?!\s+not\b))[\s:=]*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“(])|\s*\n\s*")

_LETTER = r"(?:\(\s?(?P<{0}1>[A-J])\s?\)|(?P<{0}2>[A-J])(?![\w'’-]))"
_NAMED = r"(?:the\s+)?(?:(?:option|choice|letter|answer)\s+)?"
_HENCE = r"(?:(?:so|thus|hence|therefore),?\s+)?"
_ALONE = re.compile(rf"{_NAMED}{_LETTER.format('a')}[.!)\]]*", re.IGNORECASE)
_CHOSEN = re.compile(
    rf"(?:{_HENCE}I\s+(?:would\s+)?(?:choose|pick|select|think|believe|go\s+with)|so|thus|hence|therefore),?\s+"
    rf"(?:it\s+is\s+)?{_NAMED}{_LETTER.format('a')}[.!]*"
    rf"|{_HENCE}(?:the\s+)?(?:(?:option|choice|answer)\s+)?{_LETTER.format('b')}\s+is\s+"
    r"(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice|one))?[.!]*",
    re.IGNORECASE,
)
# A letter with its text or a reason after it: "C) a dog", "C. a dog", "C, since …", "C because …";
# but not "A, B or C", nor "(A) is too small".
_TITLED = re.compile(
    rf"{_NAMED}{_LETTER.format('a')}(?:[.:;)]+(?!\s*(?:is|are)\b)"
    r"|(?<=\))\s+(?!(?:and|or|is|are|was|would|can|cannot|to|through|versus)\b)"
    r"|,\s*+(?!(?:and\s|or\s)?\(?(?-i:[A-HJ])\b)|\s+(?=because\b|since\b|as\b))(?P<text>.+)",
    re.IGNORECASE | re.DOTALL,
)

_WORDS = {"yes": True, "true": True, "no": False, "false": False}
_WORD = r"[\"“'(]*(?P<word>yes|no|true|false)[\"”')]*"
_STATED = re.compile(
    rf"{_HENCE}{_WORD}(?:[.!]*|(?<=yes)[,;:.!]\s.*|(?<=no)[,;:!]\s.*|(?<=no)\.\s\D.*"
    r"|\s+(?:because|since|as)\b.*|\s*[–—-]\s.*)",
    re.IGNORECASE | re.DOTALL,
)
_TRUTH = re.compile(
    rf"{_HENCE}(?:the\s+|this\s+)?(?:statement|claim|it|this|that)\s+is\s+"
    r"(?P<not>not\s+)?(?P<word>true|false)[.!]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Choice:
    """The oracle "choice"."""

    def __call__(self, problem: Problem, completion: Completion) -> bool:
        options = options_of(problem)
        gold = gold_letter(problem, options)
        return letter_said(completion.text, options, truncated=completion.truncated) == gold

    def reference_completion(self, problem: Problem) -> str:
        return f"The answer is ({gold_letter(problem, options_of(problem))})."


@dataclass(frozen=True)
class YesNo:
    """The oracle "yes-no"."""

    def __call__(self, problem: Problem, completion: Completion) -> bool:
        gold = gold_truth(problem)
        return truth_said(completion.text, truncated=completion.truncated) is gold

    def reference_completion(self, problem: Problem) -> str:
        return f"The answer is {'yes' if gold_truth(problem) else 'no'}."


def options_of(problem: Problem) -> Sequence[str]:
    """The texts of the options; empty where the dataset doesn't list them."""
    options: Sequence[str] = problem.metadata.get("choices") or ()
    return options


def gold_letter(problem: Problem, options: Sequence[str]) -> str:
    """Raises ProblemError where the problem's answer is no option."""
    letter = letter_in(plain(problem.answer), options)
    if letter is None:
        what = f"one of its {len(options)} options" if options else "the letter of an option"
        raise ProblemError(f"problem {problem.id}: its answer is not {what}; leave it out")
    return letter


def gold_truth(problem: Problem) -> bool:
    """Raises ProblemError where the problem's answer is neither yes nor no."""
    truth = truth_in(plain(problem.answer))
    if truth is None:
        raise ProblemError(
            f"problem {problem.id}: its answer is not yes, no, true or false; "
            "leave it out, or choose another --oracle"
        )
    return truth


def letter_said(text: str, options: Sequence[str], *, truncated: bool = False) -> str | None:
    """The letter of the option that a completion settles on."""
    pointed, said = _pointed_out(text, truncated)
    if pointed is not None:
        return letter_in(pointed, options)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if len(lines) == 1 and (letter := letter_in(lines[0], options)):
        return letter
    statements = (_ALONE.fullmatch(s) or _CHOSEN.fullmatch(s) for s in _sentences(lines))
    settled = [_letter(match, options) for match in statements if match]
    if settled:
        return settled[-1]
    titled = {_letter(match, options) for line in lines if (match := _TITLED.fullmatch(line))}
    return titled.pop() if len(titled) == 1 else None  # several are a list of the options


def truth_said(text: str, *, truncated: bool = False) -> bool | None:
    """The yes or no that a completion settles on."""
    pointed, said = _pointed_out(text, truncated)
    if pointed is not None:
        return truth_in(pointed)
    truths = (truth_in(sentence) for sentence in reversed(_SENTENCE_END.split(said)))
    return next((truth for truth in truths if truth is not None), None)


def letter_in(statement: str, options: Sequence[str]) -> str | None:
    """The letter in a statement such as "(C)", "C) a dog" or "C, since …", or that of the only
    option with the statement's text."""
    statement = statement.strip()
    if match := _ALONE.fullmatch(statement) or _TITLED.fullmatch(statement):
        return _letter(match, options)
    wanted = _comparable(statement)
    same = [i for i, option in enumerate(options) if _comparable(plain(option)) == wanted]
    return LETTERS[same[0]] if len(same) == 1 else None


def truth_in(statement: str) -> bool | None:
    statement = statement.strip()
    if match := _STATED.fullmatch(statement):
        return _WORDS[match["word"].lower()]
    if match := _TRUTH.fullmatch(statement):
        return _WORDS[match["word"].lower()] is not bool(match["not"])
    return None


def _pointed_out(text: str, truncated: bool) -> tuple[str | None, str]:
    """What the text points out as its answer, and, where it doesn't, the text to look through."""
    said = without_thinking(text)
    if said is None:
        return None, ""
    if (content := boxed(said)) is not None:
        return plain(content), ""
    said = plain(said).strip()
    marks = list(_MARK.finditer(said))
    if marks:
        rest = said[marks[-1].end() :]
        end = _SENTENCE_END.search(rest)
        return ("" if truncated and not end else rest[: end.start()] if end else rest), ""
    if truncated:  # what may not be complete is left out
        *complete, _ = ["", *_SENTENCE_END.split(said)]
        said = "\n".join(complete)
    return None, said


def _sentences(lines: Sequence[str]) -> list[str]:
    """Every line as a whole, so that "C. A dog" is no lone "C.", or else its sentences."""
    return [
        s
        for line in lines
        for s in ([line] if _TITLED.fullmatch(line) else _SENTENCE_END.split(line))
    ]


def plain(text: str) -> str:
    r"""The text without emphasis, dollar signs and \text{…}."""
    return _DECORATION.sub(lambda match: match[1] or "", text)


def _letter(match: re.Match[str], options: Sequence[str]) -> str | None:
    [letter] = [value for name, value in match.groupdict().items() if value and name != "text"]
    known = LETTERS[: len(options)] if options else LETTERS
    return letter.upper() if letter.upper() in known else None


def _comparable(text: str) -> object:
    """What two ways of writing the same option have in common."""
    number = quantity(text)
    return number.value if number else " ".join(text.strip(" .,;:!\"'").casefold().split())
