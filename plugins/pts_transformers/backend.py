"""The backend: a tokenizer and an engine, as the core wants to see them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from pts_core.errors import ProblemError, PtsError, UsageError
from pts_core.types import Continuation, Request, Sampling, TokenIds, TokenScores
from pts_transformers.engine import Engine
from pts_transformers.memory import out_of_memory
from pts_transformers.packing import pack
from pts_transformers.steering import add_to_blocks, block_outputs

_NOTHING_SHARED = (
    "this model's layers keep a state of their own: rollouts share no prefix and run in groups, "
    "which is slower"
)


class TokenizerBackend:
    """A Backend (pts_core.interfaces) that encodes and decodes, but has no model to draw with."""

    note = ""

    def __init__(self, config: Any, tokenizer: Any, *, model_id: str) -> None:
        self.model_id = model_id
        self.tokenizer = tokenizer
        self.end_of_sequence: TokenIds = (tokenizer.eos_token_id,)
        self.context_length = context_length(config)

    def encode_prompt(
        self, query: str, *, system_prompt: str | None = None, chat: bool | None = None
    ) -> TokenIds:
        """The prompt of a query: in the model's chat template if `chat` (None: if it has one).

        Without a chat the prompt is the plain text, after the system prompt and an empty line,
        with the tokens that the tokenizer puts before a text. Raises UsageError where the model
        has no template, or one that refuses the system prompt.
        """
        if chat is None:
            chat = bool(self.tokenizer.chat_template)
        if chat:
            return self._encode_chat(query, system_prompt)
        text = query if system_prompt is None else f"{system_prompt}\n\n{query}"
        ids = tuple(self.tokenizer(text, verbose=False).input_ids)
        # Some tokenizers also end every text; a prompt that has ended is not one to continue.
        ended = ids[-1:] == (self.tokenizer.eos_token_id,) != self.encode(text)[-1:]
        return ids[:-1] if ended else ids

    def encode(self, text: str) -> TokenIds:
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def decode(self, ids: TokenIds, *, skip_special_tokens: bool = False) -> str:
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text

    def score(self, _: TokenIds, __: TokenIds, ___: Sampling, /) -> TokenScores:
        raise PtsError(f"{self.model_id} is here without its weights: it scores nothing")

    def generate(
        self, pull: Callable[[], Request | None], _: Sampling, /
    ) -> Iterator[tuple[Request, Continuation | ProblemError]]:
        while (request := pull()) is not None:
            yield request, ProblemError(f"{self.model_id} is here without its weights")

    def _encode_chat(self, query: str, system_prompt: str | None) -> TokenIds:
        if not self.tokenizer.chat_template:
            raise UsageError(f"{self.model_id} has no chat template: use --chat off")
        messages = [{"role": "user", "content": query}]
        if system_prompt is not None:
            messages.insert(0, {"role": "system", "content": system_prompt})
        try:
            ids = self.tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=False
            )
        except (TemplateError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            if system_prompt is not None:
                raise UsageError(
                    f"the chat template of {self.model_id} refuses the system prompt ({reason}): "
                    "leave out --system-prompt or use --chat off"
                ) from error
            raise PtsError(
                f"the chat template of {self.model_id} fails ({reason}): use --chat off"
            ) from error
        return tuple(ids)


class TransformersBackend(TokenizerBackend):
    """A causal language model and its tokenizer; on a CPU it packs the model (packing.py)."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        model_id: str,
        max_batch: int = 64,
        memory: int | None = None,
    ) -> None:
        super().__init__(model.config, tokenizer, model_id=model_id)
        self.end_of_sequence = end_of_sequence(model, tokenizer, model_id)
        self.engine = Engine(
            model,
            end_of_sequence=self.end_of_sequence,
            context_length=self.context_length,
            max_batch=max_batch,
            memory=memory,
        )
        self.note = "" if self.engine.network.shares else _NOTHING_SHARED
        self.fingerprint = fingerprint(model, tokenizer)
        pack(model, max_batch)

    def score(self, prompt: TokenIds, completion: TokenIds, sampling: Sampling) -> TokenScores:
        return self.engine.traces.score(prompt, completion, sampling)

    def generate(
        self, pull: Callable[[], Request | None], sampling: Sampling
    ) -> Iterator[tuple[Request, Continuation | ProblemError]]:
        longest = max(map(len, sampling.stop), default=0)

        def is_stop(before: TokenIds, ids: Sequence[int]) -> bool:
            # No token is shorter than a byte, and no character longer than four.
            tail = (*before, *ids)[-4 * longest :]
            text = self.decode(tail)
            return any(stop in text for stop in sampling.stop)

        return self.engine.generate(pull, sampling, is_stop if sampling.stop else None)

    @property
    def architecture(self) -> str:
        kind: str = self.engine.model.config.get_text_config().model_type
        return kind

    def block_outputs(self, prefix: TokenIds, tokens: Sequence[int], /) -> npt.NDArray[np.float32]:
        """What the decoder blocks put out at each token; see pts_core.interfaces.Listenable."""
        self.engine.network.refuse(prefix, tuple(tokens))
        length, limit = len(prefix) + 1, self.context_length
        if limit is not None and length > limit:
            raise ProblemError(f"{length} tokens exceed the model's context of {limit}")
        with out_of_memory(f"out of memory reading {length} tokens"):
            return block_outputs(self.engine.model, prefix, tokens)

    @contextmanager
    def steered(self, vectors: Mapping[int, npt.NDArray[np.float32]], /) -> Iterator[None]:
        """Adds vectors to the outputs of decoder blocks; see pts_core.interfaces.Steerable."""
        with add_to_blocks(self.engine.model, vectors):
            self.engine.traces.forget()
            try:
                yield
            finally:
                self.engine.traces.forget()


def fingerprint(model: Any, tokenizer: Any) -> str:
    """A hash of the configuration, the tokenizer and a piece of every weight."""
    digest = hashlib.sha256()
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        config.pop(name, None)
    vocabulary = sorted(tokenizer.get_vocab().items())
    about = [str(sorted(config.items(), key=str)), vocabulary, tokenizer.chat_template]
    digest.update(json.dumps(about, default=str).encode())
    for name, weight in model.named_parameters():
        piece = weight.detach().flatten()[:64].float().cpu().numpy()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(piece.tobytes())
    return digest.hexdigest()


def end_of_sequence(model: Any, tokenizer: Any, model_id: str) -> TokenIds:
    """The ids that end a completion, the tokenizer's own first; raises PtsError if there is none.

    A union, because each source forgets some: the generation config names several ids for many
    chat models, others name the end of a turn in the chat template only.
    """
    named = [
        tokenizer.eos_token_id,
        _turn_end(tokenizer),
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config.get_text_config(), "eos_token_id", None),
    ]
    lists = [ids if isinstance(ids, list | tuple) else [ids] for ids in named]
    ids = dict.fromkeys(int(i) for ids in lists for i in ids if i is not None)
    if not ids:
        raise PtsError(
            f"{model_id} names no end-of-sequence token, so no completion would ever end: "
            "set eos_token_id in its generation_config.json"
        )
    return tuple(ids)


def _turn_end(tokenizer: Any) -> int | None:
    """The special token that the chat template puts after an assistant's turn, if any."""
    if not tokenizer.chat_template:
        return None
    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "SAID"}]
    try:
        text = tokenizer.apply_chat_template(turn, tokenize=False)
    except Exception:  # a template is a program of the model's author: it may raise anything
        return None
    after = tokenizer(text.rpartition("SAID")[2], add_special_tokens=False).input_ids
    special = set(tokenizer.get_added_vocab().values())
    return next((i for i in after if i in special), None)


def context_length(config: Any) -> int | None:
    """The most tokens of prompt and completion together; None where the config sets no limit."""
    text_config = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        length = getattr(text_config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None
