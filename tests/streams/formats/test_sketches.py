"""Sketches as vectors read them: what base64 and numpy make of the same bytes, if they are canonical."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detectors.batch import SKETCH_SIZE
from streams.formats.sketches import SKETCH_CHARS, decode_base64_sketches, read_sketches

if TYPE_CHECKING:
    from detectors.base import Array

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
SKETCH = np.linspace(-3, 3, SKETCH_SIZE).astype(np.float16)
TEXT = b64encode(SKETCH.tobytes())


def decode(*texts: bytes) -> tuple[Array, Array]:
    """Decode texts that stand in a row, at odd places: sketches, and which are sure."""
    data = np.frombuffer(b"." + b"".join(texts), np.uint8)
    starts, sure = 1 + SKETCH_CHARS * np.arange(len(texts)), np.ones(len(texts), np.bool_)
    return decode_base64_sketches(data, starts, sure), sure


@given(st.binary(min_size=2 * SKETCH_SIZE, max_size=2 * SKETCH_SIZE))
@example(bytes(2 * SKETCH_SIZE))
@example(np.full(SKETCH_SIZE, -0.0, np.float16).tobytes())
@example(np.array([6e-8, -6e-8, 6.1e-5, 65504] * 8, np.float16).tobytes())
@example(np.array([np.inf, *[1.0] * 31], np.float16).tobytes())
@example(np.array([*[1.0] * 31, np.nan], np.float16).tobytes())
def test_any_bytes_are_the_numbers_that_numpy_reads(sketch: bytes) -> None:
    halves = np.frombuffer(sketch, np.float16)
    found, sure = decode(TEXT, b64encode(sketch), TEXT)
    is_finite = bool(np.isfinite(halves).all())
    assert sure.tolist() == [True, is_finite, True]
    assert np.array_equal(found[[0, 2]], np.stack([SKETCH, SKETCH]).astype(np.float32))
    if is_finite:
        assert found[1].tobytes() == halves.astype(np.float32).tobytes()


@pytest.mark.parametrize("place", range(SKETCH_CHARS - 2))
def test_every_character_is_told_from_every_other(place: int) -> None:
    """All 256 bytes at each place: the alphabet is read as base64 reads it, the others are refused."""
    texts = [TEXT[:place] + bytes([byte]) + TEXT[place + 1 :] for byte in range(256)]
    found, sure = decode(*texts)
    for byte, text in enumerate(texts):
        is_known = byte in ALPHABET
        canonical = is_known and b64encode(b64decode(text)) == text
        halves = np.frombuffer(b64decode(text), np.float16) if canonical else SKETCH
        assert sure[byte] == (canonical and bool(np.isfinite(halves).all())), (place, byte)
        if sure[byte]:
            assert np.array_equal(found[byte], halves.astype(np.float32))


@pytest.mark.parametrize("end", [b"A=", b"=A", b"AA", b"= ", b"\xbd="])
def test_other_padding_is_refused(end: bytes) -> None:
    assert decode(TEXT[:-2] + end)[1].tolist() == [False]


def test_an_absent_sketch_and_one_that_is_not_looked_at_are_not_numbers() -> None:
    data, sure = np.frombuffer(TEXT, np.uint8), np.array([True, False])
    found = decode_base64_sketches(data, np.array([-1, 0]), sure)
    assert np.isnan(found).all()
    assert sure.tolist() == [True, False]


def test_only_an_absent_sketch_of_a_binary_format_may_be_no_number() -> None:
    absent = np.full(SKETCH_SIZE, 0x7E00, np.uint16).view(np.float16)
    nearly = absent.copy()
    nearly[7] = 1
    halves = np.stack([SKETCH, absent, nearly, np.full(SKETCH_SIZE, np.inf, np.float16)])
    data = np.frombuffer(b"." + halves.tobytes(), np.uint8)
    sketches, infinite = np.empty((4, SKETCH_SIZE), np.float32), np.empty(4, np.bool_)
    read_sketches(data.ctypes.data + 1, sketches, infinite)
    assert infinite.tolist() == [False, False, True, True]
    assert np.array_equal(sketches[0], SKETCH.astype(np.float32))
    assert np.isnan(sketches[1:]).all()
