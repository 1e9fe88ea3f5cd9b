"""The backend "transformers": causal language models that transformers runs on this machine."""

from __future__ import annotations

from typing import Literal

from pts_core.hookspecs import Factories, hookimpl
from pts_core.interfaces import Backend


@hookimpl
def pts_backends() -> Factories:
    return {"transformers": load}


def load(
    model: str,
    *,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    gguf_file: str | None = None,
    revision: str | None = None,
    max_batch: int | None = None,
    memory: float | None = None,
    weights: bool = True,
) -> Backend:
    """A causal language model run on this machine by transformers.

    Parameters
    ----------
    model
        A Hugging Face model id, a folder with a model, or a .gguf file.
    device
        auto (cuda, else mps, else cpu), cpu, cuda, cuda:N or mps.
    dtype
        auto is the checkpoint's own type; on a CPU bfloat16 if the processor multiplies it
        natively, else float32. In float32 rollouts are the same at every max_batch; in half
        precision they are the same when max_batch and memory are.
    gguf_file
        The GGUF file to load from the model id or the folder.
    revision
        A branch, tag or commit of the model id.
    max_batch
        The most rollouts that run together. If not given, as many as fit into 4 GiB of keys and
        values at 1024 tokens each, from 16 to 256.
    memory
        GiB that keys and values may take. If not given, most of what is free on a GPU and half of
        what is free on a computer. Where it runs out all the same, the batch is halved.
    weights
        Without them there is a tokenizer and nothing else: enough to read a journal.
    """
    from pts_transformers.loading import load_backend

    return load_backend(
        model,
        device=device,
        dtype=dtype,
        gguf_file=gguf_file,
        revision=revision,
        max_batch=max_batch,
        memory=memory,
        weights=weights,
    )
