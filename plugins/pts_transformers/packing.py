"""Weights in the order in which an x86 processor multiplies them fastest.

torch brings a weight into that order anew at each product. At the few rows of a decoding step that
is a large part of the product; done once, a step's products take 1.2 to 1.6 times less time. The
operators are those with which torch.compile freezes a model's weights (mkldnn, that is oneDNN).
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear layer (..., inputs) -> (..., outputs) for inference."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        """`rows` is the number of rows to be fast at; any number can be multiplied."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        """The plain weight (outputs, inputs), made anew at each use: some models look at it."""
        return self.packed.to_dense()

    def forward(self, inputs: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self.packed, self.bias, "none", [], ""
        )
        return product


def pack(model: Any, rows: int) -> None:
    """Replaces a model's linear layers by packed ones where that is faster: see the module.

    One layer after the other, so that no more than one is in memory twice; a weight that is shared
    with another layer stays there too.
    """
    if not _packs(model):
        return
    with torch.no_grad():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:  # a subclass may do more than multiply
                    setattr(parent, name, PackedLinear(child, rows))


def _packs(model: Any) -> bool:
    x86 = platform.machine() in ("x86_64", "AMD64") and torch._C._has_mkldnn
    return x86 and model.device.type == "cpu" and model.dtype in (torch.float32, torch.bfloat16)
