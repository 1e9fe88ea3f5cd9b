"""Which pairs of a file are kept, and how they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pts_core.errors import PtsError, UsageError
from pts_core.pairs import check_tokens
from pts_core.records import common_model, write_json_lines
from pts_core.types import ExportReport
from pts_dpo.pairs import Pair, make_pair
from pts_dpo.texts import Texts, load_tokenizer


@dataclass
class DpoExporter:
    """The exporter of pts_dpo.dpo, with its options."""

    min_prob_delta: float
    max_pairs: int | None
    balance: bool
    text_exact_only: bool
    template: str
    confidence: float
    tokenizer: str | None
    left_out: Counter[str] = field(default_factory=Counter)

    def __call__(self, records: Sequence[Mapping[str, Any]], output_path: Path, /) -> ExportReport:
        self.left_out = Counter()
        model = common_model(records)
        pairs = self._without_repetition(self._pairs(records))
        notes = self._add_texts(pairs, records, model) if pairs else ()
        if self.text_exact_only:
            pairs = self._keep(pairs, [p for p in pairs if p["text_exact"]], "text is not exact")
        pairs = self._limit(pairs)
        if pairs:
            write_json_lines(output_path, pairs)
        return ExportReport(len(pairs), dict(self.left_out), notes)

    def _pairs(self, records: Sequence[Mapping[str, Any]]) -> list[Pair]:
        pairs = []
        for record in records:
            if abs(record["prob_delta"]) < self.min_prob_delta:
                self.left_out["prob_delta is below --min-prob-delta"] += 1
            elif isinstance(made := make_pair(record, self.confidence), str):
                self.left_out[made] += 1
            else:
                pairs.append(made)
        return pairs

    def _without_repetition(self, pairs: list[Pair]) -> list[Pair]:
        """Two traces of a problem may share a prefix, and so a pair."""
        once = {
            (*pair["prompt_ids"], *pair["chosen_ids"], *pair["rejected_ids"]): pair
            for pair in reversed(pairs)
        }
        return self._keep(pairs, list(once.values())[::-1], "the same pair from another trace")

    def _limit(self, pairs: list[Pair]) -> list[Pair]:
        """At most max_pairs, as many of either sign if `balance`: those that differ most."""
        strongest = sorted(pairs, key=lambda p: p["prob_rejected"] - p["prob_chosen"])
        limit = len(pairs) if self.max_pairs is None else self.max_pairs
        if not self.balance:
            return self._keep(pairs, strongest[:limit], "beyond --max-pairs")
        raising = [p for p in strongest if p["metadata"]["is_positive"]]
        lowering = [p for p in strongest if not p["metadata"]["is_positive"]]
        each = min(len(raising), len(lowering))
        pairs = self._keep(pairs, raising[:each] + lowering[:each], "too many of one sign")
        each = min(each, limit // 2)
        return self._keep(pairs, raising[:each] + lowering[:each], "beyond --max-pairs")

    def _keep(self, pairs: list[Pair], wanted: list[Pair], reason: str) -> list[Pair]:
        """The wanted pairs in their order of old; the others are counted as left out."""
        if len(wanted) < len(pairs):
            self.left_out[reason] += len(pairs) - len(wanted)
        kept = {id(pair) for pair in wanted}
        return [pair for pair in pairs if id(pair) in kept]

    def _add_texts(
        self, pairs: list[Pair], records: Sequence[Mapping[str, Any]], model: str
    ) -> tuple[str, ...]:
        """Sets `text_exact`, and the texts where a tokenizer is needed to write them."""
        try:
            loaded = load_tokenizer(self.tokenizer or model)
        except PtsError as error:
            if self.tokenizer is not None:
                raise
            if self.text_exact_only or self.template == "conversational":
                raise UsageError(f"{error}; give --tokenizer") from error
            return (f"text_exact is null: {error}; give --tokenizer",)
        texts = Texts(loaded, self.tokenizer or model)
        check_tokens(records, texts.decode, texts.source)
        for pair in pairs:
            if self.template == "conversational":
                texts.make_conversational(pair)
            else:
                texts.make_plain(pair)
        exact = sum(pair["text_exact"] for pair in pairs)
        return (
            f"the text of {exact} of {len(pairs)} pairs becomes exactly their ids when it is "
            "tokenized again",
        )
