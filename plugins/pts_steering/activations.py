"""What a model's blocks put out after the better and after the worse token of a pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from pts_core.errors import PtsError, UsageError
from pts_core.pairs import TokenPair
from pts_core.types import TokenIds

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Differences:
    """Of N pairs at L blocks of width H: `vectors` (N, L, H), better less worse, and `norms`
    (N, L), the mean norm of the two outputs that they are the differences of."""

    vectors: Floats
    norms: Floats


class Model:
    """A causal language model whose blocks are listened to."""

    def __init__(self, source: str, device: str) -> None:
        with _explained(source):
            self.tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            self.network = AutoModelForCausalLM.from_pretrained(
                source, dtype=torch.float32, trust_remote_code=False
            )
        try:
            self.network.to(device).eval().requires_grad_(False)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"--format.device {device}: {str(error).splitlines()[0]}") from error
        self.blocks = find_blocks(self.network, source)
        self.kind: str = self.network.config.get_text_config().model_type

    def decode(self, ids: TokenIds) -> str:
        text: str = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return text

    def differences(self, found: Sequence[tuple[Mapping[str, Any], TokenPair]]) -> Differences:
        """The differences at the last position of prefix + token, at the output of every block.

        By hooks: what transformers calls the last hidden state has passed the final norm.
        """
        vectors, norms = [], []
        for record, pair in found:
            after = self._outputs(
                record["context_ids"], (pair.better.token_id, pair.worse.token_id)
            )
            vectors.append((after[:, 0] - after[:, 1]).numpy())
            norms.append(after.norm(dim=-1).mean(dim=1).numpy())
        return Differences(np.stack(vectors), np.stack(norms))

    @torch.inference_mode()
    def _outputs(self, prefix: list[int], tokens: tuple[int, int]) -> torch.Tensor:
        """Shape (blocks, 2, width): of prefix + each of the tokens, at the token."""
        heard: list[torch.Tensor] = []

        def listen(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
            hidden = output[0] if isinstance(output, tuple) else output
            heard.append(hidden[:, -1].float().cpu())

        hooks = [block.register_forward_hook(listen) for block in self.blocks]
        ids = torch.tensor([[*prefix, token] for token in tokens], device=self.network.device)
        try:
            self.network(input_ids=ids, use_cache=False)
        except (IndexError, RuntimeError) as error:
            raise PtsError(
                f"the model can't read a record: {str(error).splitlines()[0]}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(heard)


def find_blocks(network: nn.Module, source: str) -> list[nn.Module]:
    """The decoder blocks: the first list of modules as long as the configuration says."""
    config: Any = network.config
    count = config.get_text_config().num_hidden_layers
    for module in network.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise PtsError(f"{source} has no list of {count} decoder blocks to listen to")


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turns whatever loading raises into one line."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # transformers, tokenizers, safetensors, the Hub: each has its own
        reason = " ".join(str(error).split())[:160]
        raise PtsError(f"the model {source} can't be loaded: {reason}") from error
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
