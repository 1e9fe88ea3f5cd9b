"""The text of a pair, and whether tokenizing it again gives the pair's ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pts_core.errors import PtsError
from pts_dpo.pairs import Pair


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a folder or a Hub id. Raises PtsError where it can't be had."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers, tokenizers, the Hub: each has its own
        reason = str(error).split("\n")[0].split(". ")[0]
        raise PtsError(f"the tokenizer of {source} can't be loaded ({reason[:120]})") from error
    finally:
        logging.set_verbosity(before)


class Texts:
    """Writes the pairs of one tokenizer as text."""

    def __init__(self, tokenizer: Any, source: str) -> None:
        self.tokenizer = tokenizer
        self.source = source
        begin, empty = tokenizer.bos_token_id, tokenizer("").input_ids
        self.adds_begin = begin is not None and empty[:1] == [begin]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return text

    def make_plain(self, pair: Pair) -> None:
        """The prompt as text, without the begin token where the tokenizer adds it by itself."""
        ids = pair["prompt_ids"]
        begins = self.adds_begin and ids[0] == self.tokenizer.bos_token_id
        ids_of_text = ids[1:] if begins else ids
        prompt = pair["prompt"] = self.decode(ids_of_text)
        for side in ("chosen", "rejected"):  # decoded alone, some lose the space they begin with
            whole = self.decode(ids_of_text + pair[f"{side}_ids"])
            if whole.startswith(prompt):
                pair[side] = whole[len(prompt) :]
        pair["text_exact"] = all(
            self.tokenizer(pair["prompt"] + pair[side], verbose=False).input_ids
            == ids + pair[f"{side}_ids"]
            for side in ("chosen", "rejected")
        )

    def make_conversational(self, pair: Pair) -> None:
        """The query as a message, and both answers from their begin up to the token.

        Raises PtsError where the tokenizer has no chat template.
        """
        if not self.tokenizer.chat_template:
            raise PtsError(f"{self.source} has no chat template: leave out --template")
        answer = pair["prompt_ids"][pair["metadata"]["prompt_length"] :]
        query = [{"role": "user", "content": pair["metadata"]["original_query"]}]
        exact = True
        for side in ("chosen", "rejected"):
            said = self.decode(answer + pair[f"{side}_ids"])
            turn = [{"role": "assistant", "content": said}]
            exact &= self._unfinished(query + turn) == pair["prompt_ids"] + pair[f"{side}_ids"]
            pair[side] = turn
        pair["prompt"], pair["text_exact"] = query, exact

    def _unfinished(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a chat whose last message may go on."""
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(
                messages, continue_final_message=True, return_dict=False
            )
        except Exception:  # a template is a program of the model's author: it may raise anything
            return []
        return ids
