"""What a model's blocks put out after the better and after the worse token of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pts_core.errors import ProblemError, PtsError
from pts_core.interfaces import Listenable
from pts_core.pairs import TokenPair

Floats = npt.NDArray[np.float32]
Found = list[tuple[Mapping[str, Any], TokenPair]]  # records with their pairs


@dataclass(frozen=True, slots=True)
class Differences:
    """Of N pairs at L blocks of width H: `vectors` (N, L, H), better less worse, and `norms`
    (N, L), the mean norm of the two outputs that they are the differences of."""

    vectors: Floats
    norms: Floats


def differences(backend: Listenable, found: Found) -> Differences:
    """The differences at the last position of prefix + token, at the output of every block."""
    vectors, norms = [], []
    for record, pair in found:
        tokens = (pair.better.token_id, pair.worse.token_id)
        try:
            better, worse = backend.block_outputs(tuple(record["context_ids"]), tokens)
        except ProblemError as error:
            raise PtsError(f"the model can't read a record: {error}") from error
        vectors.append(better - worse)
        norms.append(np.linalg.norm([better, worse], axis=-1).mean(axis=0))
    return Differences(np.stack(vectors), np.stack(norms))
