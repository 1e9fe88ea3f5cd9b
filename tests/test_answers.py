"""The oracles "math" and "exact": every way of giving an answer, right and wrong, and bad input."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pts_answers import auto, equivalence, exact, math
from pts_answers.reading import answer_in, reference_in, without_thinking

from pts_core.errors import ProblemError, PtsError, UsageError
from pts_core.types import Completion, Problem

NINES = "9" * 1_000_000


def problem(answer: str) -> Problem:
    return Problem(id="p7", query="?", answer=answer, dataset_id="d")


def judged(gold: str, said: str, *, truncated: bool = False) -> bool:
    return math()(problem(gold), Completion(said, (), truncated))


RIGHT = [
    # where the answer stands
    ("18", "She has 16 - 3 - 4 = 9 eggs and makes 9 * 2 = $18.\n#### 18"),
    ("Janet sells 9 eggs for 9 * 2 = <<9*2=18>>18 dollars.\n#### 18", "#### 18"),
    ("#### 18", "#### 18 dollars"),
    ("The answer is 8.", "8"),
    (r"so we have \boxed{\frac{1}{2}}", "0.5"),
    ("1/2", r"\boxed{\frac{1}{2}}"),
    ("2", r"\boxed{1}, or rather \boxed{2}"),
    ("1", r"\boxed{1}, or rather \boxed{2"),
    ("5", r"\boxed{\boxed{5}}"),
    ("5", r"\fbox{5}"),
    ("42", "#### Step 3: add\n\nThe answer is 42."),
    ("7", "The answer is 7 because 3 + 4 = 7 and 8 is not."),
    ("7", "The answer is 7, which is one of 4 primes below 10."),
    ("7", "Answer: 7\nThe next question has 9 parts"),
    ("7", "**Answer:** 7"),
    ("7", "**Final answer**: **7**"),
    ("7", "The final answer is $7$. I hope it is correct."),
    ("7", "THE ANSWER IS:\n\n7"),
    ("7", "The answer is therefore 7!"),
    ("8", "The answer is not 7, it is 8."),
    ("7", "<think>The answer is 5.</think>The answer is 7."),
    ("7", "perhaps 5</think>7"),
    ("42", "It is 42"),
    ("42", "17 + 25 = 42."),
    ("5", "10 - 5 = 5"),
    ("-3", "so we get x = -3"),
    # numbers
    ("1234", "1,234"),
    ("1,234", "1234"),
    ("1234", r"\boxed{1{,}234}"),
    ("111111", r"\boxed{111,\! 111}"),
    ("10000", r"\boxed{10\,000}"),
    ("10000", r"\boxed{10 000}"),
    ("$5.00", "5"),
    ("5", r"\boxed{\$5}"),
    ("-5", "-$5"),
    ("3/4", "0.75"),
    ("0.75", r"\boxed{\dfrac{6}{8}}"),
    ("3/4", r"\boxed{\frac34}"),
    ("-3/4", r"\boxed{\frac{-3}{4}}"),
    ("7/2", r"\boxed{3\frac{1}{2}}"),
    ("7/2", "Answer: 3 1/2"),
    ("1/3", r"\boxed{0.\overline{3}}"),
    ("1/6", r"\boxed{0.1\overline{6}}"),
    ("1/3", "0.33333333"),
    ("5", "5.0"),
    ("0.0015", "1.5e-3"),
    ("150000", r"\boxed{1.5 \times 10^5}"),
    ("−3", "-3"),
    ("0", "0.0"),
    ("1234567.5", "$1,234,567.50"),
    ("1234567", r"\boxed{1\,234\,567}"),
    ("1000000", "Answer: 1,000,000 people"),
    ("-1,234", r"\boxed{-1{,}234}"),
    ("5", r"\boxed{+5}"),
    ("15", "€15"),
    ("15", "£ 15.00"),
    ("15", r"\boxed{15\text{ dollars}}"),
    ("15.50", "The answer is $15.5 each."),
    ("#### $15", "#### 15.00"),
    ("2 1/2", "2.5"),
    ("2 1/2", r"\boxed{\frac{5}{2}}"),
    ("2 1/2", "Answer: 5/2 cups"),
    (r"2\frac{1}{2}", "The answer is 2.5."),
    ("-2 1/2", "-2.5"),
    (r"\frac{1,000}{3}", "1000/3"),
    ("0.125", "1/8"),
    ("10/4", "5/2"),
    ("7", "14/2"),
    ("1/4", "25%"),
    # percent
    ("12.5%", r"\boxed{12.5\%}"),
    ("12.5%", "12.5 percent"),
    ("12.5%", "1/8"),
    ("0.5%", "0.005"),
    ("50%", "50%"),
    ("50%", "50"),
    ("50%", "0.5"),
    ("50", r"\boxed{50\%}"),
    ("0.5", "50 percent"),
    # units and names
    ("15", "15 dollars"),
    ("15 dollars", "$15"),
    ("15", r"\boxed{15\text{ cm}^2}"),
    ("15", r"\boxed{15 \mathrm{~km/h}}"),
    ("15", "Answer: 15cm"),
    ("15", "Answer: 15 miles per hour"),
    (r"90^\circ", "90 degrees"),
    ("x=5", "5"),
    ("5", r"\boxed{x = 5}"),
    ("12", r"\boxed{\sqrt{144} = 12}"),
    # formulas
    ("x^2+1", r"\boxed{1 + x^2}"),
    ("x^2+1", "the answer is $x^2+1$."),
    ("x^2+1", "x^2+1"),
    ("(x+1)^2", r"\boxed{x^2+2x+1}"),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}"),
    (r"2\sqrt{3}", "Answer: 2*sqrt(3)"),
    (r"2\sqrt{3}", "Answer: 2√3"),
    (r"2\sqrt{3}", "Answer: 3.4641016"),
    ("2", r"\boxed{\sqrt{4}}"),
    (r"\frac{\pi}{2}", "Answer: pi/2"),
    (r"6\pi", "Answer: 6π square units"),
    (r"5,000\pi", r"\boxed{5000\pi}"),
    ("(1,2)", r"\boxed{\left(1, 2\right)}"),
    ("1,2", r"\boxed{2, 1}"),
    ("3,5", "The answers are 3 and 5."),
    ("[0,1)", r"\boxed{[0,1)}"),
    (r"x \le 3", r"\boxed{(-\infty, 3]}"),
    ("1<x<5", r"\boxed{1 < x < 5}"),
    ("x^2+y^2=4", r"\boxed{x^2+y^2=4}"),
    ("y=2x+3", r"\boxed{y = 2x + 3}"),
    ("3+4i", r"\boxed{4i + 3}"),
    ("C", r"\boxed{C}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{bmatrix}1\\2\end{bmatrix}}"),
]

WRONG = [
    # where the answer stands
    ("1", r"\boxed{1}, or rather \boxed{2}"),
    ("2", r"\boxed{2"),
    ("5", r"\boxed{\text{five}} 5"),
    ("3", "#### Step 3: add\n\nThe answer is 42."),
    ("7", "The answer is unknown. We tried 7"),
    ("4", "The answer is 7, which is one of 4 primes below 10."),
    ("5", "<think>The answer is 5."),
    ("5", "<think>The answer is 5.</think>"),
    ("5", ""),
    ("5", "no idea"),
    ("5", "we get 10-5"),
    ("5", "it takes 3-5 days"),
    ("5", "it is x^5"),
    ("2", "H2O"),
    ("10", "2023-10-05"),
    ("1", "The answer is $x^2+1$."),
    ("3", r"so we get $2\sqrt{3}$"),
    # numbers
    ("42", "41"),
    ("42", "-42"),
    ("-3", "3"),
    ("3/4", "4/3"),
    ("3/4", "0.7"),
    ("1/3", "0.33"),
    ("2.5", "2.6"),
    ("1234", "1,23,4"),
    ("0", "0.0000000001"),
    (r"1.5 \times 10^{-7}", "0.00000016"),
    ("5", "The answer is 5 million."),
    ("5", r"\boxed{\frac{1}{0}}"),
    ("15", "$1.5"),
    ("1234", "12,34"),
    ("1234", "1.234"),
    ("1,234", "1"),
    ("1,234", "234"),
    ("1000000", "1,000"),
    ("2 1/2", "2"),
    ("2 1/2", "1/2"),
    ("2 1/2", "21/2"),
    ("-2 1/2", "-1.5"),
    ("1/8", "0.12"),
    ("1/8", "1.8"),
    ("3", "3/4"),
    ("4", "3/4"),
    ("7", "7 1/2"),
    # percent
    ("12.5%", "0.0125"),
    ("50%", "5000%"),
    ("50%", "5%"),
    ("50", "0.5"),
    ("0.5", "50"),
    # units and names
    ("5", "15 dollars"),
    ("1", "15 dollars"),
    ("15", "5 dollars"),
    ("15", "$150"),
    ("15", "15 million dollars"),
    ("15", "15 dozen"),
    ("1500", "15 hundred and one"),
    ("15", "Answer: 15x"),
    ("6", r"\boxed{2x = 6}"),
    # formulas
    ("x^2+1", r"\boxed{x^2+2}"),
    ("x^2+1", r"\boxed{1}"),
    (r"2\sqrt{3}", r"\boxed{3.46}"),
    ("(1,2)", r"\boxed{(2,1)}"),
    ("[0,1)", r"\boxed{[0,1]}"),
    ("x^2+y^2=4", "4"),
    ("C", r"\boxed{D}"),
    ("C", r"\boxed{\text{C is right}}"),
]

ABSURD = [
    r"\boxed{9^{9^{9^9}}}",
    NINES,
    rf"\boxed{{{NINES}}}",
    rf"\boxed{{5.{NINES}}}",
    r"\boxed{" * 15_000,
    r"\boxed{" + "{" * 200 + "x" + "}" * 200 + "}",
    "{" * 100_000,
    "<think>" * 15_000,
    "</think>" * 15_000,
    "answer is " * 10_000,
    "the answer is" + " " * 100_000,
    "1,234," * 20_000,
    "- " * 50_000,
    "! " * 50_000,
    "$" * 100_000,
    "1/" * 50_000,
    r"\boxed{1e999999999}",
    r"\boxed{10^{999999999}}",
    "\x00\ud800 \\boxed{\ud800}",
    r"\boxed{}{\frac{}{}}",
    r"\boxed{__import__('os').system('true')}",
]


@pytest.mark.parametrize(("gold", "said"), RIGHT)
def test_a_right_answer_is_correct(gold: str, said: str):
    assert judged(gold, said) is True


@pytest.mark.parametrize(("gold", "said"), WRONG)
def test_a_wrong_answer_is_incorrect(gold: str, said: str):
    assert judged(gold, said) is False


@pytest.mark.parametrize("said", ABSURD, ids=range(len(ABSURD)))
def test_absurd_completions_are_incorrect_within_bounds(said: str):
    started = time.perf_counter()
    assert judged("5", said) is False
    assert time.perf_counter() - started < 15  # 2 s of processor time at most, on a busy machine


@pytest.mark.parametrize(
    "answer",
    [
        r"\text{(C)}",
        r"\boxed{\text{Evelyn}}",
        r"n \text{ is even}",
        "east",
        "yes",
        "",
        "  ",
        "?",
        "5 or more",
        "}{",
        r"\frac{1}{0}",
        r"\frac{1}{",
        "10 20",
        "9" * 5000,
        "Paris\nis the capital\x1b[31m",
    ],
)
def test_a_reference_answer_that_is_no_mathematics_is_an_error(answer: str):
    with pytest.raises(
        ProblemError, match=r"^problem p7: its answer \".*\" can't be read"
    ) as error:
        judged(answer, answer)
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 200


def test_a_completion_cut_off_has_only_the_answers_that_had_ended():
    assert judged("5", r"so \boxed{5} is", truncated=True)
    assert judged("5", "The answer is 5. I am sure that", truncated=True)
    assert judged("5", "#### 5\nNow", truncated=True)
    assert not judged("5", "The answer is 5", truncated=True)
    assert not judged("3", "The answer is 3.", truncated=True)
    assert not judged("5", "#### 5", truncated=True)
    assert not judged("5", "first, 2 + 3 = 5", truncated=True)


def test_the_reader_says_what_was_written():
    assert answer_in(r"\boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert answer_in("it costs $1,234.50 in all") == "$1,234.50"
    assert answer_in("nothing") is None
    assert reference_in("some steps\n#### 1,234") == " 1,234"
    assert reference_in("3/4") == "3/4"
    assert without_thinking("a<think>b</think>c<think>d</think>e") == "ace"
    assert without_thinking("a<think>b") is None


@pytest.mark.parametrize("tolerance", [-1e-9, 1, float("nan"), float("inf")])
def test_a_tolerance_that_makes_no_sense_is_refused(tolerance: float):
    with pytest.raises(UsageError, match="tolerance must be at least 0 and below 1"):
        math(tolerance=tolerance)


def test_the_tolerance_is_relative_and_for_decimals_only():
    lax = math(tolerance=0.01)
    assert lax(problem("1000"), Completion("1009.0", ()))
    assert not lax(problem("1000"), Completion("1011.0", ()))
    assert not lax(problem("1000"), Completion("1001", ()))
    assert not math(tolerance=0)(problem("1000"), Completion("1000.0001", ()))


def test_formulas_are_judged_in_threads_too():
    verdicts = {}

    def judge(number: int) -> None:
        verdicts[number] = judged(f"x^2+{number}", rf"\boxed{{{number}+x^2}}")

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == dict.fromkeys(range(2, 10), True)


def test_the_worker_is_replaced_when_it_dies_and_its_death_is_no_verdict():
    worker = equivalence._Worker()
    assert worker.ask("x+1", "1+x")
    assert worker.process is not None
    worker.process.kill()
    worker.process.wait()
    assert worker.ask("x+1", "1+x")
    assert worker.process is not None
    os.kill(worker.process.pid, signal.SIGSTOP)
    killer = threading.Timer(0.2, worker.process.kill)
    killer.start()
    with pytest.raises(PtsError, match="math-verify process was ended"):
        worker.ask("x+1", "1+x")
    killer.join()
    assert worker.process is None


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_no_worker_is_one_clear_line(program: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(PtsError, match="math-verify") as error:
        equivalence._Worker().ask("x")
    assert "\n" not in str(error.value)


def test_plain_numbers_are_judged_fast():
    judge = auto()
    problems = [problem(str(n)) for n in range(100)]
    completions = [
        Completion(f"Step by step: 3 + 4 = 7. The answer is {n}.", ()) for n in range(99)
    ]
    started = time.perf_counter()
    verdicts = [judge(p, c) for p in problems for c in completions]
    assert sum(verdicts) == 99
    assert len(verdicts) / (time.perf_counter() - started) > 2_000  # 60,000 or more on an idle core


def test_exact_compares_the_whole_text():
    judge = exact()
    assert judge(problem("New  York\n"), Completion(" New York ", ()))
    assert judge(problem("yes"), Completion("<think>no</think>yes", ()))
    assert not judge(problem("yes"), Completion("Yes", ()))
    assert not judge(problem("yes"), Completion("yes!", ()))
    assert not judge(problem("yes"), Completion("the answer is yes", ()))
    assert not judge(problem("yes"), Completion("<think>yes", ()))
    assert exact(ignore_case=True)(problem("Straße"), Completion("STRASSE", ()))
    with pytest.raises(ProblemError, match="problem p7: its answer is empty"):
        judge(problem(" "), Completion("", ()))


def test_the_plugin_is_light(tmp_path: Path):
    code = (
        "import sys, pts_answers; pts_answers.auto()\n"
        "[pts_answers.pts_oracles()[name]() for name in ('math', 'choice', 'yes-no', 'exact')]\n"
        "heavy = {'math_verify', 'sympy', 'torch', 'datasets', 'pydantic_monty'}\n"
        "assert not heavy & set(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env)
