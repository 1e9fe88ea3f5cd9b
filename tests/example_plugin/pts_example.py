"""An example of a pts plugin. Copy it, keep the kinds that you need, and rename the rest.

A factory's keyword parameters are its options: `--oracle parity --oracle.heads H`. Anything heavy
is imported inside a factory, since every command loads every plugin.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass

from pts_core import Continuation, ExportReport, Problem, TokenScores, UsageError, hookimpl
from pts_core.randomness import uniforms


@hookimpl
def pts_oracles():
    return {"parity": parity}


@hookimpl
def pts_datasets():
    return {"coins": coins}


@hookimpl
def pts_exporters():
    return {"csv": write_csv}


@hookimpl
def pts_backends():
    return {"coin": CoinBackend}


def parity(*, heads: str = "H"):
    """Right if the number of heads is what the problem asks for: even or odd.

    Parameters
    ----------
    heads
        The word for heads.
    """

    def oracle(problem, completion):
        count = completion.text.split().count(heads)
        return not completion.truncated and (count % 2 == 0) == (problem.answer == "even")

    return oracle


@dataclass
class coins:
    """Asks for an even or an odd number of heads.

    Parameters
    ----------
    size
        How many problems.
    seed
        Draws them.
    """

    size: int = 6
    seed: int = 0

    dataset_id = "coins"
    note = ""

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Problem]:
        chance = random.Random(self.seed)
        for i in range(self.size):
            answer = chance.choice(["even", "odd"])
            yield Problem(str(i), f"Toss an {answer} number of heads.", answer, "coins")


def write_csv(*, columns: str = "pivot_token,prob_before,prob_after"):
    """Some columns of the pivotal tokens, for a spreadsheet.

    Parameters
    ----------
    columns
        Their names, separated by commas.
    """
    names = columns.split(",")

    def export(records, output_path):
        unknown = [name for name in names if records and name not in records[0]]
        if unknown:
            raise UsageError(f"--format.columns: records have no {unknown[0]!r}")
        if records:
            with output_path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(records)
        return ExportReport(len(records))

    return export


END, HEADS, TAILS = 0, 1, 2
WORDS = {END: "</s>", HEADS: "H", TAILS: "T"}


class CoinBackend:
    """A "model" that tosses a coin that many times: what a backend has to do, and no more.

    Parameters
    ----------
    model
        Its name.
    tosses
        The length of an answer.
    bias
        Probability of heads.
    """

    end_of_sequence = (END,)
    context_length = None

    def __init__(self, model: str, *, tosses: int = 3, bias: float = 0.5) -> None:
        if not 0 < bias < 1:
            raise UsageError(f"--backend.bias must lie between 0 and 1, not {bias}")
        self.model_id, self.tosses, self.bias = model, tosses, bias

    def encode_prompt(self, query, *, system_prompt=None, chat=None):
        return self.encode("H")

    def encode(self, text):
        ids = {word: i for i, word in WORDS.items()}
        return tuple(ids[word] for word in text.split())

    def decode(self, ids, *, skip_special_tokens=False):
        return " ".join(WORDS[i] for i in ids if i != END or not skip_special_tokens)

    def _policy(self, position):
        """The probability of each token after so many tokens of the completion."""
        if position >= self.tosses:
            return {END: 1.0}
        return {HEADS: self.bias, TAILS: 1 - self.bias}

    def score(self, prompt, completion, sampling):
        import numpy as np

        policies = [self._policy(t) for t in range(len(completion))]
        ids = np.full((len(completion), 2), -1)
        probs = np.zeros((len(completion), 2))
        for t, choices in enumerate(policies):
            for k, (i, p) in enumerate(sorted(choices.items(), key=lambda c: -c[1])):
                ids[t, k], probs[t, k] = i, p
        own = [p.get(i, 0.0) for p, i in zip(policies, completion, strict=True)]
        return TokenScores(np.array(own), ids, probs)

    def generate(self, pull, sampling):
        while (request := pull()) is not None:
            room = sampling.horizon - request.start
            ids: list[int] = []
            for u in uniforms(sampling.seed, request.stream, max(room, 0)):
                choices = self._policy(request.start + len(ids))
                if not ids and request.excluded_token is not None:
                    choices.pop(request.excluded_token, None)
                token = self._draw(choices, u)
                if not ids and request.first_token is not None:
                    token = request.first_token
                ids.append(token)
                if token == END:
                    break
            yield request, Continuation(tuple(ids), truncated=ids[-1:] != [END])

    @staticmethod
    def _draw(choices, u):
        """The token at which the cumulative probability exceeds u."""
        goal, total = u * sum(choices.values()), 0.0
        for token, p in choices.items():
            total += p
            if goal < total:
                return token
        return token
