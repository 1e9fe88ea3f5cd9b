"""Rows of well-known data sets, one or two each, in their real columns and types."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hub

GSM8K = {
    "question": "Janet's ducks lay 16 eggs per day. She eats 3. How many are left?",
    "answer": "She has 16 - 3 = <<16-3=13>>13 eggs left.\n#### 13",
}
MATH_500 = {
    "problem": r"Convert the point $(0,3)$ in rectangular coordinates to polar coordinates.",
    "solution": r"We have $r = 3$, so it is $\boxed{\left( 3, \frac{\pi}{2} \right)}.$",
    "answer": r"\left( 3, \frac{\pi}{2} \right)",
    "subject": "Precalculus",
    "level": 2,
    "unique_id": "test/precalculus/807.json",
}
AIME_2024 = {
    "id": 60,
    "problem": "Every morning Aya goes for a walk.",
    "solution": r"So it takes $\boxed{204}$ minutes.",
    "answer": "204",
    "url": "https://example.org/aime",
    "year": "2024",
}
MAXWELL_AIME_2024 = {
    "ID": "2024-II-4",
    "Problem": "Let $x,y$ and $z$ be positive real numbers.",
    "Solution": "So 25 + 8 = 33.",
    "Answer": 33,
}
AIME_25 = {"problem": "Find the sum of all integer bases.", "answer": "70", "id": "0"}
AIME_24_BOXED = {"id": 60, "problem": "Aya walks.", "solution": r"\boxed{204}", "url": "u"}
OPENCOMPASS = {"question": "Find the sum of all integer bases.", "answer": "70"}
OPENR1 = {
    "problem": "Find the perimeter.",
    "solution": "## Solution. It is $\\frac{1}{2}(96-12)$, so 42 or 43.",
    "answer": "42",
    "problem_type": "Geometry",
    "question_type": "math-word-problem",
    "source": "olympiads",
    "uuid": "586fd646-76d6-5070-8c81-9993ab9d8559",
    "is_reasoning_complete": [True, True],
    "generations": ["<think>so</think> 42", "<think>so</think> 41"],
    "correctness_math_verify": [True, False],
    "correctness_llama": None,
    "finish_reasons": None,
    "correctness_count": 1,
    "messages": [{"role": "user", "content": "Find the perimeter."}],
}
OPENR1_OTHERS = [{**OPENR1, "uuid": str(n), "problem": "x" * 2000} for n in range(3000)]
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def double(n: int) -> int:\n    """Twice n."""\n',
    "canonical_solution": "    return 2 * n\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    "entry_point": "double",
}
MBPP = {
    "task_id": 2,
    "text": "Write a function to find the shared elements from the given two lists.",
    "code": "def similar_elements(a, b):\n    return tuple(set(a) & set(b))",
    "test_list": ["assert set(similar_elements((3, 4), (4, 5))) == {4}"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
MBPP_SANITIZED = {
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "task_id": 2,
    "prompt": "Write a function to find the shared elements.",
    "code": "def similar_elements(a, b):\n    return tuple(set(a) & set(b))",
    "test_imports": ["import math"],
    "test_list": ["assert set(similar_elements((3, 4), (4, 5))) == {4}"],
}
OPTILLMBENCH = [
    {
        "id": "gsm8k_0a1b2c3d",
        "category": "gsm8k",
        "question": "Tom has 3 bags of 4 apples and eats 2. How many apples are left?",
        "answer": "3 * 4 = <<3*4=12>>12 12 - 2 = <<12-2=10>>10 #### 10",
        "metadata": {"source": "gsm8k", "type": "gsm8k", "difficulty": "challenging"},
    },
    {
        "id": "mmlu_math_1a2b3c4d",
        "category": "mmlu_math",
        "question": "Which of these is the capital of France, in which the Seine flows? "
        "Choices: 0. Lyon 1. Paris 2. Nice, with 1.5 million 3. Lille",
        "answer": "Paris",
        "metadata": {"source": "cais/mmlu", "type": "mmlu_math", "difficulty": "challenging"},
    },
    {
        "id": "boolq_2a3b4c5d",
        "category": "boolq",
        "question": "Context: Persian is also known as Farsi. Question: is farsi a language",
        "answer": "Yes",
        "metadata": {"source": "boolq", "type": "boolq", "difficulty": "challenging"},
    },
    {
        "id": "aqua_rat_3a4b5c6d",
        "category": "aqua_rat",
        "question": "A grocery sells a bag of ice for $1.25, and makes 20% profit. How much is it?",
        "answer": "C",
        "metadata": {"source": "aqua_rat", "type": "aqua_rat", "difficulty": "challenging"},
    },
]
MMLU = {
    "question": "What is 1 + 1?",
    "subject": "maths",
    "choices": ["1", "2", "3", "4"],
    "answer": 1,
}
MMLU_PRO = {
    "question_id": 70,
    "question": "Which is it?",
    "options": [f"option {n}" for n in range(10)],
    "answer": "I",
    "answer_index": 8,
    "category": "business",
}
ARC = {
    "id": "Mercury_7175875",
    "question": "Which is it?",
    "choices": {"text": ["rain", "snow", "hail", "fog"], "label": ["1", "2", "3", "4"]},
    "answerKey": "3",
}
AQUA_RAT = {
    "question": "How fast?",
    "options": ["A)21", "B)21.5", "C)22", "D)22.5", "E)23"],
    "rationale": "It is 21.5, so B.",
    "correct": "B",
}

Configs = Mapping[str, Mapping[str, list[dict[str, Any]]]]

# Hub id -> configuration -> split -> rows; a + marks the default configuration.
REPOSITORIES: dict[str, Configs] = {
    "openai/gsm8k": {
        "main": {"train": [GSM8K] * 2, "test": [GSM8K]},
        "socratic": {"test": [GSM8K]},
    },
    "HuggingFaceH4/MATH-500": {"default": {"test": [MATH_500]}},
    "HuggingFaceH4/aime_2024": {"default": {"train": [AIME_2024]}},
    "Maxwell-Jia/AIME_2024": {"default": {"train": [MAXWELL_AIME_2024]}},
    "math-ai/aime25": {"default": {"test": [AIME_25]}},
    "math-ai/aime24": {"default": {"test": [AIME_24_BOXED]}},
    "opencompass/AIME2025": {
        "AIME2025-I": {"test": [OPENCOMPASS]},
        "AIME2025-II": {"test": [OPENCOMPASS]},
    },
    "open-r1/OpenR1-Math-220k": {
        "all": {"train": [OPENR1]},
        "+default": {"train": [OPENR1]},
        "extended": {"train": [OPENR1, *OPENR1_OTHERS]},
    },
    "openai/openai_humaneval": {"+openai_humaneval": {"test": [HUMANEVAL]}},
    "google-research-datasets/mbpp": {
        "+full": {"train": [MBPP], "test": [MBPP], "validation": [MBPP], "prompt": [MBPP]},
        "sanitized": {"test": [MBPP_SANITIZED]},
    },
    "codelion/optillmbench": {"default": {"train": OPTILLMBENCH, "test": OPTILLMBENCH}},
    "cais/mmlu": {"default": {"test": [MMLU]}},
    "TIGER-Lab/MMLU-Pro": {"default": {"test": [MMLU_PRO]}},
    "allenai/ai2_arc": {"default": {"test": [ARC]}},
    "deepmind/aqua_rat": {"default": {"test": [AQUA_RAT]}},
}


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A Hub with all of them, in Parquet files of at most 1000 rows; its URL."""
    repositories = {}
    for name, configs in REPOSITORIES.items():
        repositories[f"datasets/{name}"] = lay_out(folder / name, configs)
    with hub.serve(repositories) as url:
        yield url


def lay_out(folder: Path, configs: Configs) -> Path:
    import pyarrow
    from pyarrow import parquet

    card = []
    for name, splits in configs.items():
        config = name.removeprefix("+")
        files = []
        for split, rows in splits.items():
            (folder / config).mkdir(parents=True, exist_ok=True)
            for n, start in enumerate(range(0, len(rows), 1000)):
                table = pyarrow.Table.from_pylist(rows[start : start + 1000])
                parquet.write_table(table, folder / config / f"{split}-{n}.parquet")
            files.append({"split": split, "path": f"{config}/{split}-*.parquet"})
        card.append({"config_name": config, "data_files": files, "default": name[0] == "+"})
    # JSON is YAML.
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(card)}\n---\n")
    return folder
