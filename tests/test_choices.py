"""The oracles "choice", "yes-no", "contains" and "reasoning-gym", and "auto", which picks one."""

import sys

import pytest
from pts_answers import auto, choice, contains, exact, math, reasoning_gym, yes_no

from pts_core.errors import ProblemError, PtsError, UsageError
from pts_core.interfaces import Explainer, ReferenceChecker
from pts_core.types import Completion, Problem

OPTIONS = ["12 apples", "a dog", "$42$", "50", r"$\frac{1}{2}$"]


def problem(answer: str, task_type: str = "generic", query: str = "?", **metadata) -> Problem:
    return Problem("p7", query, answer, "d", task_type, metadata)


def said(text: str, *, truncated: bool = False) -> Completion:
    return Completion(text, (), truncated)


# Each with the letter that it gives of OPTIONS.
LETTERS = [
    ("B", "B"),
    ("b", "B"),
    ("B.", "B"),
    ("(C)", "C"),
    ("**C**", "C"),
    ("the answer is C", "C"),
    ("The answer is (C) because it is.", "C"),
    ("The answer is (C), since A is wrong.", "C"),
    ("The answer is **(B)** a dog.", "B"),
    ("The correct answer is **B**.", "B"),
    ("The correct option is **D: 50**", "D"),
    ("Final answer: B) a dog", "B"),
    ("Answer:\n\n**B. A dog**", "B"),
    ("ANSWER: c", "C"),
    ("The answer is a dog.", "B"),
    ("a dog", "B"),
    ("A dog.", "B"),
    ("42", "C"),
    (r"The answer is \(42\).", "C"),
    (r"The answer is $\frac{1}{2}$.", "E"),
    ("The answer is 0.5", "E"),
    (r"\boxed{C}", "C"),
    (r"\boxed{\text{(C)}}", "C"),
    (r"\boxed{A}, or rather \boxed{42}", "C"),
    ("A) is too small.\nB) is a dog.\n\nThe answer is C.", "C"),
    ("The answer is A. No: the answer is B.", "B"),
    ("B. A dog\n\nIt barks.", "B"),
    ("C) $42$\n\nBecause 6 * 7 = 42.", "C"),
    ("So (C).", "C"),
    ("It barks. Therefore, it is B.", "B"),
    ("I would choose option D.", "D"),
    ("I think C", "C"),
    ("A is wrong. Option B is correct.", "B"),
    ("<think>The answer is A.</think>B", "B"),
    ("", None),
    ("<think>The answer is A.", None),
    ("A) 12 apples\nB) a dog\nC) 42\nD) 50", None),
    ("The answer is A, B or C.", None),
    ("The answer is A or B.", None),
    ("It could be (A) or (B).", None),
    ("The answer is not C.", None),
    ("The answer is a large number.", None),
    ("The answer is A large number.", None),
    ("A large dog.", None),
    ("a large dog", None),
    ("A dog is an animal, and an animal is not an apple.", None),
    ("(A) is wrong.", None),
    ("A) is wrong, so it is not that.", None),
    ("(A) is too small, (B) is too large, so it must be (C).", None),
    ("The answer is F.", None),
    ("The answer is 51.", None),
    ("the cat", None),
    ("I have no idea.", None),
]

TRUTHS = [
    ("Yes", True),
    ("no.", False),
    ("**No**", False),
    ("True", True),
    ("FALSE", False),
    ("Yes, because it is.", True),
    ("Yes: it is the same language.", True),
    ("No because it is not.", False),
    ("Yes - it does.", True),
    ("The answer is yes.", True),
    ('The answer is "no".', False),
    ("The answer is **yes**. No doubt about it.", True),
    ("Answer: False", False),
    ("The answer is yes. No, wait: the answer is no.", False),
    (r"No! \boxed{\text{Yes}}", True),
    ("No, wait. Yes.", True),
    ("Is it? The passage says so. Therefore, yes.", True),
    ("The passage says so.\n\nYes, it is.", True),
    ("So the statement is false.", False),
    ("So it is not true.", False),
    ("It is not false.", True),
    ("<think>No.</think>Yes.", True),
    ("", None),
    ("<think>Yes.", None),
    ("I have no idea.", None),
    ("No. 5 is the best.", None),
    ("Nothing.", None),
    ("Not really.", None),
    ("It is true that many think so.", None),
    ("True, many think so, but they are wrong.", None),
    ("Yes and no", None),
    ("yes no", None),
    ("The answer is yes or no.", None),
    ("The answer is not yes.", None),
    ("The answer is nothing.", None),
    ("Is it yes?", None),
]


@pytest.mark.parametrize(("text", "letter"), LETTERS)
def test_the_option_that_is_chosen(text: str, letter: str | None):
    right = [g for g in "ABCDE" if choice()(problem(g, choices=OPTIONS), said(text))]
    assert right == ([letter] if letter else [])


@pytest.mark.parametrize(("text", "truth"), TRUTHS)
def test_the_yes_or_no_that_is_stated(text: str, truth: bool | None):
    assert yes_no()(problem("yes"), said(text)) is (truth is True)
    assert yes_no()(problem("False"), said(text)) is (truth is False)


def test_letters_need_no_list_of_options():
    assert choice()(problem("J"), said("The answer is (J)."))
    assert not choice()(problem("J"), said("The answer is (K)."))
    assert not choice()(problem("B"), said("a dog"))


@pytest.mark.parametrize("gold", ["C", "(C)", "c.", r"\text{(C)}", "C) $42$", "42", "$42$"])
def test_a_reference_answer_is_a_letter_or_the_text_of_an_option(gold: str):
    row = problem(gold, choices=OPTIONS)
    assert choice()(row, said("(C)"))
    assert not choice()(row, said("(D)"))
    assert choice().reference_completion(row) == "The answer is (C)."


def test_reference_answers_that_cannot_be_used_are_named():
    refused = [
        (choice(), problem("F", choices=OPTIONS), "is not one of its 5 options"),
        (choice(), problem("red", choices=["red", "red"]), "is not one of its 2 options"),
        (choice(), problem("Paris"), "is not the letter of an option"),
        (yes_no(), problem("maybe"), "is not yes, no, true or false"),
        (math(), problem("east"), "can't be read as mathematics"),
        (exact(), problem(" "), "is empty"),
        (contains(), problem(""), "is empty"),
        (auto(), problem("Paris"), "--oracle exact, contains or FILE.py:FUNCTION"),
        (reasoning_gym(), problem("5"), "is not one of reasoning-gym's"),
    ]
    for oracle, row, reason in refused:
        assert isinstance(oracle, ReferenceChecker)
        for ask in (oracle.reference_completion, lambda p, o=oracle: o(p, said("x"))):
            with pytest.raises(ProblemError, match=r"^problem p7: ") as error:
                ask(row)
            assert reason in str(error.value)


def test_a_statement_that_was_cut_off_is_none():
    def letter(text: str) -> bool:
        return choice()(problem("C"), said(text, truncated=True))

    assert letter(r"so \boxed{C} is")
    assert letter("The answer is C. I am sure that")
    assert letter("I choose C.\nNow let me")
    assert not letter("The answer is C")
    assert not letter("C")

    def no(text: str) -> bool:
        return yes_no()(problem("no"), said(text, truncated=True))

    assert no("No, it is not. The text")
    assert not no("The answer is no")
    assert not no("No")


@pytest.mark.parametrize(
    "text",
    [
        *("(" * 50_000, "The answer is " * 5_000, "A) " * 30_000, "so " * 50_000, "yes " * 50_000),
        *("answer" + " " * 100_000, "No, " * 30_000, "*" * 100_000, "\\text{" * 20_000),
        *("A. " * 30_000, "\n" * 100_000, "the statement is not " * 10_000, "<think>" * 20_000),
    ],
    ids=range(13),
)
def test_absurd_completions_are_read_within_bounds(text: str):
    import time

    started = time.perf_counter()
    choice()(problem("C", choices=OPTIONS), said(text))
    yes_no()(problem("yes"), said(text))
    assert time.perf_counter() - started < 2


def test_contains_looks_for_whole_words():
    judge = contains()
    assert judge(problem("New York"), said("It is in New\nYork."))
    assert judge(problem("C++"), said("in C++, say"))
    assert judge(problem("5"), said("It is 5."))
    assert not judge(problem("5"), said("15, 50, 1.5, 5.1 or 5,000"))
    assert not judge(problem("cat"), said("category"))
    assert not judge(problem("cat"), said("Cat"))
    assert not judge(problem("cat"), said("<think>cat</think>dog"))
    assert contains(ignore_case=True)(problem("cat"), said("Cat"))
    assert not contains()(problem("5"), said("It is -5."))
    assert contains()(problem("-5"), said("It is -5."))


LISTED = "Which one? A) red B) blue"
PICKED = [
    (problem("18", "math"), "math, since its task type"),
    (problem("B", "choice"), "choice, since its task type"),
    (problem("yes", "yes-no"), "yes-no, since its task type"),
    (problem("Paris", "exact"), "exact, since its task type"),
    (problem("#### 18", "arithmetic"), "math, since its answer is a number or a formula"),
    (problem("B", "math", "Which?\n(A) 1\n(B) 2"), "choice, since its answer is a letter"),
    (problem("4", test="AMC 12"), "math, since its answer is a number or a formula"),
    (problem("x^2", "contains"), "math, since its answer is a number or a formula"),
    (problem("C"), "math, since its answer is a number or a formula"),
    (
        problem("B", query=LISTED),
        "choice, since its answer is a letter and its query lists options",
    ),
    (
        problem(r"\text{(B)}", "math", query=r"Which? $\textbf{(A)}\ 1 \textbf{(B)}\ 2$"),
        "choice, since its answer is a letter and its query lists options",
    ),
    (problem("blue", choices=["red", "blue"]), "choice, since it comes with options"),
    (problem("True"), "yes-no, since its answer is yes or no"),
    (problem("x", test="def check(f): ...", entry_point="f"), "code, since it comes with tests"),
    (problem("x", test_list=["assert f() == 1"]), "code, since it comes with tests"),
]


@pytest.mark.parametrize(("row", "how"), PICKED, ids=range(len(PICKED)))
def test_auto_picks_by_task_type_then_by_structure(row: Problem, how: str):
    oracle = auto()
    assert isinstance(oracle, Explainer)
    assert oracle.explain(row).startswith(how)


def test_auto_judges_as_what_it_picks():
    judge = auto(tolerance=0.01)
    assert judge(problem("1000"), said("1009.0"))
    assert judge(problem("B", query=LISTED), said("I choose B."))
    assert not judge(problem("B", query=LISTED), said("red or blue, both are B-list"))
    assert judge(problem("No"), said("No, never."))
    assert judge(problem("Paris", "exact"), said("Paris"))
    assert not judge(problem("Paris", "exact"), said("It is Paris"))
    for row, _ in PICKED[:11]:
        assert judge(row, said(judge.reference_completion(row))), row
    with pytest.raises(UsageError, match="tolerance"):
        auto(tolerance=2)


# reasoning-gym


def generated(name: str, count: int = 10) -> list[Problem]:
    create = pytest.importorskip("reasoning_gym").create_dataset
    entries = create(name, size=count, seed=1)
    return [problem(str(e["answer"]), "reasoning-gym", e["question"], entry=e) for e in entries]


@pytest.mark.parametrize("name", ["chain_sum", "gsm_symbolic", "syllogism", "word_ladder"])
def test_verifiers_accept_the_reference_and_nothing_else(name: str):
    judge = auto()
    for row in generated(name):
        assert judge(row, said(judge.reference_completion(row)))
        assert judge(row, said(f"<answer>x</answer> or <answer> {row.answer}\n</answer>"))
        assert judge(row, said(f"Well.\nThe answer is {row.answer}."))
        assert judge(row, said(row.answer))
        assert not judge(row, said("<answer>nonsense</answer>"))
        assert not judge(row, said(f"{row.answer} it is"))
        assert not judge(row, said(f"<think>{row.answer}"))
        assert not judge(row, said(f"it is {row.answer}", truncated=True))
        assert not judge(row, said("9" * 100_000))


def test_a_partial_score_is_wrong():
    [row, *_] = generated("chain_sum")
    from reasoning_gym import get_score_answer_fn

    text = f"{row.answer} or so"
    assert 0 < get_score_answer_fn("chain_sum")(text, row.metadata["entry"]) < 0.99
    assert not reasoning_gym()(row, said(text))


def test_a_verifier_that_would_run_the_answer_is_not_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    for name in ("string_insertion", "countdown", "n_queens", "polynomial_multiplication"):
        for row in generated(name, 1):
            with pytest.raises(ProblemError, match=f"the verifier of {name} may run an answer"):
                reasoning_gym()(row, said("<answer>[open('forged', 'w')]</answer>"))
    assert not Path("forged").exists()


def test_reasoning_gym_is_an_extra(monkeypatch: pytest.MonkeyPatch):
    from pts_answers import reasoning

    reasoning._score.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    row = problem("5", entry={"answer": "5", "metadata": {"source_dataset": "chain_sum"}})
    with pytest.raises(PtsError, match=r"pip install 'pivotal-token-search\[reasoning-gym\]'"):
        reasoning_gym()(row, said("5"))
