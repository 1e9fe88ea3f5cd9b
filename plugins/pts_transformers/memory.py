"""Memory: how much there is, and running out of it as an error that says so in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pts_core.errors import PtsError

# On a CPU torch raises a plain RuntimeError; only its text tells.
_SIGNS = ("can't allocate memory", "cannot allocate memory", "out of memory")


class OutOfMemory(PtsError):
    """There is not enough memory, on any device."""


@contextmanager
def out_of_memory(message: str) -> Iterator[None]:
    """Raises OutOfMemory(message) where the body runs out of memory."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory(message) from error
    except Exception as error:
        if not any(sign in str(error).lower() for sign in _SIGNS):
            raise
        raise OutOfMemory(message) from error


def free_memory(device: torch.device) -> int:
    """Bytes that keys and values may take by default: most of what a GPU has left, half of what a
    computer has."""
    if device.type == "cuda":
        return int(0.8 * torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError):  # macOS does not say what is free
        return 4 * 2**30
