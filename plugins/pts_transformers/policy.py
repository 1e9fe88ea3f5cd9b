"""The policy: from logits to the distribution that is sampled, and a draw from it.

Scoring and sampling share these functions, so that a token's probability is that of drawing it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from pts_core.errors import ProblemError, UsageError
from pts_core.types import Sampling

_BLOCK = 256  # columns of a block in `draw`


class RowError(ProblemError):
    """One row cannot be sampled; `row` is its index."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def policy(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities, float32 of shape (rows, vocab), for logits of the same shape.

    Temperature, top-k, top-p and min-p in the order and by the definitions of transformers 5
    (generation/logits_process.py: TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper,
    MinPLogitsWarper). One choice is made that those leave open: where tokens of equal probability
    straddle the edge of top-p, the higher ids stay. A logit of -inf is a forbidden token.

    Raises RowError for a row with NaN or +inf, or with every token forbidden.
    """
    _check(sampling)
    scores = logits.float() / sampling.temperature
    if sampling.top_k > 0:
        kth = scores.topk(min(sampling.top_k, scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < kth, -math.inf)
    if sampling.top_p < 1:
        # Stable, so that which of two equal tokens stays depends on no batch and no machine.
        ordered, order = scores.sort(dim=-1, stable=True)
        unlikely = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        unlikely[:, -1] = False
        scores = scores.masked_fill(unlikely.scatter(1, order, unlikely), -math.inf)
    if sampling.min_p > 0:
        probs = scores.softmax(dim=-1)
        least = sampling.min_p * probs.amax(dim=-1, keepdim=True)
        scores = scores.masked_fill(probs < least, -math.inf)
    probs = scores.softmax(dim=-1)
    # NaN and +inf logits, and rows of nothing but -inf, all make the whole row NaN here.
    _refuse(probs[:, 0].isnan(), "the model's logits are NaN or infinite: try dtype float32")
    return probs


def draw(probs: Tensor, uniforms: Tensor, excluded: Tensor) -> Tensor:
    """One token id a row, int64 of shape (rows,), by inverting the cumulative distribution.

    `probs` has shape (rows, vocab), `uniforms` (float64 in [0, 1]) and `excluded` (a token id
    to leave out, or -1) have shape (rows,). A token of probability zero is never drawn.

    Raises RowError for a row whose excluded token has all the mass.
    """
    if probs.device.type == "mps":  # has no float64
        probs = probs.cpu()
    uniforms, excluded = uniforms.to(probs.device), excluded.to(probs.device)
    rows = (excluded >= 0).nonzero()[:, 0]
    if len(rows):
        probs = probs.clone()
        probs[rows, excluded[rows]] = 0
    # In blocks: to sum a vocabulary is cheaper than to accumulate it. Float32 holds the sum of a
    # block to 1e-7 of it; across blocks it takes float64.
    if odd := probs.shape[1] % _BLOCK:
        probs = pad(probs, (0, _BLOCK - odd))
    blocks = probs.reshape(len(probs), -1, _BLOCK)
    sums = blocks.sum(dim=2).double()
    total = sums.sum(dim=1)
    _refuse(total <= 0, "the excluded token {} has all the probability", excluded)
    block, rest = _invert(sums, uniforms * total)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block].double()
    token, _ = _invert(inside, rest)
    return block * _BLOCK + token


def _invert(mass: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first column (rows,) at which the cumulative `mass` (rows, columns) exceeds `target`
    (rows,), and what is left of the target there. It is a column with mass, whatever the rounding.
    """
    cumulative = mass.cumsum(dim=1)
    # Zeroed off the support: a parallel scan may round so that it rises at a column of no mass.
    reached = cumulative.masked_fill(mass <= 0, 0)
    most = reached.amax(dim=1)
    target = target.minimum(most.nextafter(torch.zeros_like(most)))
    column = (reached > target[:, None]).byte().argmax(dim=1)  # the first that exceeds
    before = cumulative.gather(1, column[:, None]) - mass.gather(1, column[:, None])
    return column, (target - before[:, 0]).clamp(min=0)


def intervals(
    probs: Tensor, ids: Tensor
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The uniforms that `draw` turns into given tokens: those from `low` on, below `high`.

    `probs` has shape (rows, vocab), `ids` and both results have shape (rows,).
    """
    if probs.device.type == "mps":  # has no float64
        probs, ids = probs.cpu(), ids.cpu()
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    high = cumulative.gather(1, ids[:, None])[:, 0]
    low = high - probs.gather(1, ids[:, None])[:, 0]
    total = cumulative[:, -1]
    return (low / total).cpu().numpy(), (high / total).cpu().numpy()


def _check(sampling: Sampling) -> None:
    if not 0 < sampling.temperature < math.inf:
        raise UsageError(f"temperature must be a positive number, not {sampling.temperature}")
    if not 0 <= sampling.top_p <= 1:
        raise UsageError(f"top_p must be between 0 and 1 (1 is off), not {sampling.top_p}")
    if sampling.top_k < 0:
        raise UsageError(f"top_k must not be negative (0 is off), not {sampling.top_k}")
    if not 0 <= sampling.min_p <= 1:
        raise UsageError(f"min_p must be between 0 and 1 (0 is off), not {sampling.min_p}")


def _refuse(bad: Tensor, message: str, values: Tensor | None = None) -> None:
    """Raises RowError for the first row of `bad`, with its value in the message."""
    if bad.any():
        row = int(bad.byte().argmax())
        raise RowError(message.format(None if values is None else int(values[row])), row)
