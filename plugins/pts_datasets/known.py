"""Data sets that are known by their Hub id: what to load, and how their problems are judged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

# What a question must ask for, so that the answer comes in the form in which it is judged.
REQUESTS = {
    "math": r"Put the final answer in \boxed{}.",
    "choice": "End with the letter of the right option, in this form: The answer is (X).",
    "yes-no": 'End with "The answer is yes." or with "The answer is no."',
}


@dataclass(frozen=True, slots=True)
class Known:
    """What a user need not say of a dataset.

    `hub_id` is its full id, `config` the configuration to take if none is asked for. A dataset
    that mixes kinds has `categories`, from what its rows say to the task type; each of its
    questions ends with a request for the form of answer.
    """

    hub_id: str | None = None
    config: str | None = None
    task_type: str | None = None
    categories: Mapping[str, str] = field(default_factory=dict)


UNKNOWN = Known()

# mmlu_math has questions of every subject, its options numbered within the question and the text of
# one as its answer; aqua_rat has a letter, and its questions lack the options.
_OPTILLMBENCH = {"gsm8k": "math", "mmlu_math": "choice", "boolq": "yes-no", "aqua_rat": "choice"}
_TABLE = {
    r"(openai/)?gsm8k": Known("openai/gsm8k", config="main", task_type="math"),
    r"HuggingFaceH4/MATH-500": Known(task_type="math"),
    r"codelion/optillmbench": Known(categories=_OPTILLMBENCH),
    r"(openai/)?openai_humaneval": Known("openai/openai_humaneval", task_type="code"),
    r"(google-research-datasets/)?mbpp": Known(
        "google-research-datasets/mbpp", config="full", task_type="code"
    ),
    r"opencompass/AIME2025": Known(config="AIME2025-I", task_type="math"),
    r"[^/]+/(aimo-validation-)?aime[-_]?(20)?\d*([-_].*)?": Known(task_type="math"),
    r"open-r1/OpenR1-Math.*": Known(config="default", task_type="math"),
}


def known(source: str) -> Known:
    """What is known of the dataset of this id; nothing if it is not in the table."""
    for pattern, entry in _TABLE.items():
        if re.fullmatch(pattern, source, re.IGNORECASE):
            return entry
    return UNKNOWN
