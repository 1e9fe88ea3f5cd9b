"""Names for what a token is, from those that optillm's autothink knows."""

from __future__ import annotations

WORDS = {
    "self_correction": "wait no actually hmm but however oops sorry mistake wrong check recheck "
    "verify correct incorrect",
    "exploration": "alternatively alternative maybe perhaps another or try suppose consider what "
    "if instead guess",
    "organization": "first second third firstly secondly next then finally step steps now begin "
    "let lets",
    "depth_and_thoroughness": "because since so therefore thus hence means implies recall note "
    "careful carefully more",
}
_PATTERNS = {word: name for name, words in WORDS.items() for word in words.split()}


def pattern(token: str) -> str:
    """numerical_accuracy for digits and signs of arithmetic, else by the word; or "unknown"."""
    word = token.strip().lower()
    if word and all(c.isdigit() or c in "+-*/=.,%" for c in word) and not set(word) <= set(".,"):
        return "numerical_accuracy"
    return _PATTERNS.get(word.strip(".,:;!?'"), "unknown")
