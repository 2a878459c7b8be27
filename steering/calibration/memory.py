"""About how much memory a calibration takes, before one starts."""

from __future__ import annotations

from steering.calibration.fit_lens import LensFit
from steering.calibration.pipeline import ENGINE, NUM_TEXTS
from steering.engine.kv_size import SHORTEST
from steering.model.loading import LanguageModel

OF_A_PROCESS = 1 << 30
"""Bytes of the interpreter, of libraries and of what is small."""
TEXT_TOKENS = 64
"""Of a neutral text."""
FLOAT = 4


def memory_needed(model: LanguageModel, *, tunes: bool, tests: bool) -> int:
    """Bytes on the model's device. tunes: weights are trained; tests: all of them are, for comparison.

    The largest parts are counted as if they were there at the same time: the weights; keys and values of the engine's
    rows, which are short; the states on which lenses are fitted, and these with gradient and momentum.
    """
    layout, weights = model.layout, model.nbytes
    rows = ENGINE.max_rows * min(SHORTEST, layout.context) * layout.kv_bytes_per_token(model.dtype)
    states = 2 * NUM_TEXTS * TEXT_TOKENS * layout.num_layers * layout.d_model * model.dtype.itemsize
    lenses = 3 * layout.num_layers * layout.d_model**2 * FLOAT + LensFit().batch_tokens * layout.vocab_size * FLOAT
    trained = (3 if tests else 1) * weights if tunes else 0
    return OF_A_PROCESS + weights + rows + (ENGINE.prefix_cache or 0) + states + lenses + trained
