"""Listens and adds to the outputs of a model's decoder blocks, by forward hooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pts_core.errors import PtsError, UsageError
from pts_core.types import TokenIds


@contextmanager
def add_to_blocks(model: Any, vectors: Mapping[int, npt.NDArray[np.float32]]) -> Iterator[None]:
    """Adds vectors[n] to the output of block n (counted from 0) at every position, inside.

    Raises UsageError for a block that there is not, or a vector that is not as wide as the model.
    """
    blocks = _blocks(model)
    width = model.config.get_text_config().hidden_size
    for layer, vector in vectors.items():
        if layer not in range(len(blocks)):
            raise UsageError(f"there is no layer {layer}: the model has 0 to {len(blocks) - 1}")
        if vector.shape != (width,):
            raise UsageError(
                f"the vector of layer {layer} has {vector.size} numbers and the model is {width} "
                "wide: is it of another model?"
            )
    with _hooked((blocks[n], _adding(v, model)) for n, v in vectors.items()):
        yield


def block_outputs(model: Any, prefix: TokenIds, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """Shape (tokens, blocks, width), of prefix + each of the tokens, at that token.

    By hooks: what transformers calls the last hidden state has passed the final norm.
    """
    heard: list[torch.Tensor] = []

    def listen(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001 - as torch calls
        hidden = output[0] if isinstance(output, tuple) else output
        heard.append(hidden[:, -1].float().cpu())

    ids = torch.tensor([[*prefix, token] for token in tokens], device=model.device)
    with _hooked((block, listen) for block in _blocks(model)), torch.inference_mode():
        model(input_ids=ids, use_cache=False)
    outputs: npt.NDArray[np.float32] = torch.stack(heard, dim=1).numpy()
    return outputs


@contextmanager
def _hooked(hooks: Iterable[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Each hook is on the output of its module, inside."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(vector: npt.NDArray[np.float32], model: Any) -> Any:
    added = torch.tensor(vector, device=model.device, dtype=model.dtype)

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001 - as torch calls
        if isinstance(output, tuple):
            return (output[0] + added, *output[1:])
        return output + added

    return hook


def _blocks(model: Any) -> list[nn.Module]:
    """The first list of modules that is as long as the configuration says."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise PtsError(f"{type(model).__name__} has no list of {count} decoder blocks")
