"""The randomness of rollouts: counter-based, so it depends on no batch, order or other rollout."""

import numpy as np
import numpy.typing as npt


def uniforms(seed: int, stream: int, count: int) -> npt.NDArray[np.float64]:
    """The first `count` uniforms in [0, 1) of a stream; the k-th one draws its k-th token.

    `seed` and `stream` are unsigned 64-bit numbers (Philox 4x64, Salmon et al., SC 2011).
    """
    generator = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))
    return np.random.Generator(generator).random(count)
