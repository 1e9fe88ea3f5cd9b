"""Trains with TRL on exactly one token a side (needs the extra `trl`).

    from datasets import load_dataset
    from pts_dpo.trl import TokenDPOTrainer
    from trl import DPOConfig

    pairs = load_dataset("json", data_files="pairs.jsonl", split="train")
    trainer = TokenDPOTrainer(
        model=model, args=DPOConfig("out", max_length=None), train_dataset=pairs,
        processing_class=tokenizer,
    )
    trainer.train()

TRL's own trainer reads the text, tokenizes it again and appends the end-of-sequence token to both
sides: it would train on two tokens, the second of which tells the model to stop.
"""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer

ID_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


class TokenDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """A DPOTrainer that takes the token ids of the pairs as they are."""

    def _prepare_dataset(
        self,
        dataset: Any,
        processing_class: Any,  # noqa: ARG002 - part of the interface
        args: Any,
        dataset_name: str,
    ) -> Any:
        """The data set's id columns alone.

        Raises ValueError where it has none, and where args.max_length would cut tokens off.
        """
        missing = [name for name in ID_COLUMNS if name not in next(iter(dataset))]
        if missing:
            raise ValueError(
                f"the {dataset_name} dataset has no {missing[0]!r}: is it a dpo export?"
            )
        if args.max_length is not None:
            raise ValueError(
                "set DPOConfig(max_length=None): a cut would take the chosen token off"
            )
        return dataset.select_columns(list(ID_COLUMNS))


def with_prefixes(pairs: Any) -> Any:
    """The same pairs with what the model had written before each token on both sides.

    DPO's loss doesn't change, as what both sides share cancels in it; but a second term, of
    DPOConfig(loss_type=["sigmoid", "sft"], loss_weights=[1, 4]), then holds the model to its own
    text between the tokens, which DPO on single tokens lets drift. The term is that of Pang et al.
    2024, "Iterative Reasoning Preference Optimization" (arXiv 2404.19733), section 2. `pairs` is
    a dpo export as a datasets.Dataset; raises ValueError for a row without its `prompt_length`.
    """

    def moved(row: dict[str, Any]) -> dict[str, list[int]]:
        length = row["metadata"]["prompt_length"]
        if length is None:
            raise ValueError("a pair says no prompt_length: its record is of another tool")
        written = row["prompt_ids"][length:]
        return {
            "prompt_ids": row["prompt_ids"][:length],
            "chosen_ids": written + row["chosen_ids"],
            "rejected_ids": written + row["rejected_ids"],
        }

    return pairs.map(moved)
