"""The exporter "dpo": preference pairs of single tokens. `pts_dpo.trl` trains on them with TRL."""

from __future__ import annotations

from typing import Literal

from pts_core.errors import UsageError
from pts_core.hookspecs import Factories, hookimpl
from pts_core.interfaces import Exporter


@hookimpl
def pts_exporters() -> Factories:
    return {"dpo": dpo}


def dpo(
    *,
    min_prob_delta: float = 0.0,
    max_pairs: int | None = None,
    balance: bool = False,
    text_exact_only: bool = False,
    template: Literal["text", "conversational"] = "text",
    confidence: float = 0.95,
    tokenizer: str | None = None,
) -> Exporter:
    """Preference pairs of single tokens, both measured, for DPO: JSON lines.

    Of a token that raises success probability it is the chosen one, of one that lowers it the
    rejected one; the other side is the most probable alternative measured apart from it.

    Parameters
    ----------
    min_prob_delta
        Leave out tokens that move success probability by less.
    max_pairs
        Keep so many, those whose two sides differ most.
    balance
        Keep as many pairs of tokens that lower success probability as of those that raise it.
    text_exact_only
        Keep pairs whose text becomes exactly their token ids when it is tokenized again.
    template
        text, or conversational: the query and both answers, up to the token, as messages.
    confidence
        The interval of the difference of the two sides at this confidence must not hold 0.
    tokenizer
        A folder or Hub id with the model's tokenizer; the records' model if not given.

    Raises UsageError for a value out of range.
    """
    if not 0 <= min_prob_delta <= 1:
        raise UsageError(f"--min-prob-delta must be from 0 to 1, not {min_prob_delta}")
    if max_pairs is not None and max_pairs < 1:
        raise UsageError(f"--max-pairs must be at least 1, not {max_pairs}")
    if not 0 < confidence < 1:
        raise UsageError(f"--format.confidence must lie between 0 and 1, not {confidence}")
    from pts_dpo.export import DpoExporter

    return DpoExporter(
        min_prob_delta, max_pairs, balance, text_exact_only, template, confidence, tokenizer
    )
