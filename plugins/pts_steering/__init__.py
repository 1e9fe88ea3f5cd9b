"""The exporter "steering": vectors that point from bad tokens to good ones."""

from __future__ import annotations

from typing import Literal

from pts_core.errors import UsageError
from pts_core.hookspecs import Factories, hookimpl
from pts_core.interfaces import Exporter


@hookimpl
def pts_exporters() -> Factories:
    return {"steering": steering}


def steering(
    *,
    model: str | None = None,
    layer_nums: str | None = None,
    steering_format: Literal["safetensors", "gguf", "jsonl"] | None = None,
    confidence: float = 0.95,
    device: str = "auto",
) -> Exporter:
    """Steering vectors: the mean difference between good and bad tokens on the same prefix.

    Of each pivotal token and an alternative measured apart from it, the output of the model's
    blocks after the better token less that after the worse one.

    Parameters
    ----------
    model
        The model of the records: a folder or Hub id.
    layer_nums
        Blocks to write, counted from 0, as 19,23,27; the one that separates best if not given.
    steering_format
        safetensors, gguf or jsonl; what the suffix of the output says if not given.
    confidence
        The interval of the difference of the two tokens at this confidence must not hold 0.
    device
        Where the model runs: auto, cpu, cuda, cuda:N or mps.

    Raises UsageError for a value out of range, or without a model.
    """
    if model is None:
        raise UsageError("--format steering needs the model of the records: --model")
    if not 0 < confidence < 1:
        raise UsageError(f"--format.confidence must lie between 0 and 1, not {confidence}")
    from pts_steering.export import SteeringExporter, read_layers

    layers = None if layer_nums is None else read_layers(layer_nums)
    return SteeringExporter(model, layers, steering_format, confidence, device)
