"""Sketches: 32 numbers that keep the distances between inputs, so that the inputs need not leave the process.

Not encryption: whoever holds many sketches and knows what inputs look like can tell which are alike.

A sketch of x in R^d is x G / sqrt(32) with G a d x 32 matrix of independent standard normal numbers
(Johnson and Lindenstrauss 1984): E|sketch|^2 = |x|^2, with relative standard deviation sqrt(2 / 32) = 0.25.
It is linear, so the sketch of a difference is the difference of the sketches.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.batch import SKETCH_SIZE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

DEFAULT_SEED = 20_261_123
"""Sketches can be compared only when made with the same seed; keep it unless your model is new."""

SKETCH_BYTES = 2 * SKETCH_SIZE
_FLOAT16_MAX = float(np.finfo(np.float16).max)


class Sketcher:
    """Projects inputs of one size; one for the inputs and one for the embeddings of a model.

    Parameters
    ----------
    input_size : int
        Numbers in an input, d.
    seed : int
        The matrix is `numpy.random.default_rng(seed + input_size).standard_normal((input_size, 32))`.
    """

    def __init__(self, input_size: int, seed: int = DEFAULT_SEED) -> None:
        if input_size < 1:
            raise ValueError(f"input_size must be at least 1, not {input_size}")
        self.input_size = input_size
        matrix = np.random.default_rng(seed + input_size).standard_normal((input_size, SKETCH_SIZE))
        self._matrix = (matrix / np.sqrt(SKETCH_SIZE)).astype(np.float32)

    def sketch(self, inputs: ArrayLike) -> NDArray[np.float16]:
        """Sketch one input (d,) or any shape of d numbers to (32,), or a batch (n, d) to (n, 32).

        Numbers beyond float16's range are held at its limits.

        Raises
        ------
        ValueError
            If the shape does not fit, or a number is not finite.
        """
        x = np.asarray(inputs, np.float32)
        if not (x.ndim == 2 and x.shape[1] == self.input_size):
            if x.size != self.input_size:
                raise ValueError(f"expected {self.input_size} numbers an input, got shape {x.shape}")
            x = x.reshape(self.input_size)
        sketches, is_finite = self._project(x)
        if not is_finite.all():
            raise ValueError("the input holds a number that is not finite, or is too large")
        return sketches

    def sketch_each(self, inputs: NDArray[Any]) -> list[NDArray[np.float16] | None]:
        """Sketch inputs (n, d) in one matrix product; None for one that `sketch` would refuse."""
        sketches, is_finite = self._project(inputs.astype(np.float32, copy=False))
        return [one if fine else None for one, fine in zip(sketches, is_finite.tolist(), strict=True)]

    def _project(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Sketch (d,) or (n, d); tell of each whether it is finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            projected = x @ self._matrix
            held: NDArray[np.float32] = np.clip(projected, -_FLOAT16_MAX, _FLOAT16_MAX)
            return held.astype(np.float16), np.isfinite(projected).all(axis=-1)


def encode_sketch(sketch: NDArray[np.floating]) -> str:
    """Write a sketch (32,) as base64 of little-endian float16 (88 characters).

    Raises
    ------
    ValueError
        If it has another shape, or a number that is not finite in float16.
    """
    if sketch.shape != (SKETCH_SIZE,):
        raise ValueError(f"a sketch has {SKETCH_SIZE} numbers, not shape {sketch.shape}")
    with np.errstate(over="ignore"):
        packed = sketch.astype("<f2")
    if not np.isfinite(packed).all():
        raise ValueError("a sketch holds a number that is not finite in float16")
    return base64.b64encode(packed.tobytes()).decode("ascii")


def decode_sketch(text: str) -> NDArray[np.float16]:
    """Read a sketch (32,) back from base64; the inverse of `encode_sketch`.

    Raises
    ------
    ValueError
        If the text is not base64 of 32 numbers. It is not repeated in the message.
    """
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("a sketch is not base64") from error
    if len(raw) != SKETCH_BYTES:
        raise ValueError(f"a sketch has {SKETCH_BYTES} bytes, not {len(raw)}")
    return np.frombuffer(raw, "<f2")
