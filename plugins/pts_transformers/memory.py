"""Running out of memory, as an error that says so in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pts_core.errors import PtsError

# On a CPU torch raises a plain RuntimeError; only its text tells.
_SIGNS = ("can't allocate memory", "cannot allocate memory", "out of memory")


@contextmanager
def out_of_memory(message: str) -> Iterator[None]:
    """Raises PtsError(message) where the body runs out of memory, on any device."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise PtsError(message) from error
    except Exception as error:
        if not any(sign in str(error).lower() for sign in _SIGNS):
            raise
        raise PtsError(message) from error
