"""Real sample traffic and the shipped references: what a first run needs, without a download.

`traffic.xz` holds recorded attacks and odd-numbered benign keys; `<model>.reference` what the even-numbered
benign keys of the same recordings look like. Sources and licences are in `ATTRIBUTION.md`; both are made by
`python -m streams.samples.build`.
"""

from __future__ import annotations

import io
import json
import lzma
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from streams.traces import WEEK_START_MS, KeyTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectors.reference import ModelReference

TRAFFIC_FILE = "traffic.xz"
REFERENCE_SUFFIX = ".reference"

_ANSWERS = ("top1", "margin", "entropy_nats")


def load_sample() -> list[KeyTrace]:
    """Read the sample traffic: benign keys that made no reference, and attacks."""
    return unpack(files(__name__).joinpath(TRAFFIC_FILE).read_bytes())


def load_references() -> dict[str, ModelReference]:
    """Read the shipped references by model name."""
    # Imported here: it brings numba, which reading the traffic does not need.
    from detectors.reference import ModelReference  # noqa: PLC0415

    found = sorted(
        (entry for entry in files(__name__).iterdir() if entry.name.endswith(REFERENCE_SUFFIX)),
        key=lambda entry: entry.name,
    )
    return {
        entry.name.removesuffix(REFERENCE_SUFFIX): ModelReference.load(entry.read_bytes()) for entry in found
    }


def pack(traces: Sequence[KeyTrace]) -> bytes:
    """Write traces compactly and the same on every run; request parameters are left out.

    Rows that repeat (pollers, retries, shared inputs) stand once. The bytes of the sketches are regrouped by
    column and significance, which lets xz take another tenth off.
    """
    sketches = np.hstack([_join(traces, "input_sketch"), _join(traces, "embedding_sketch")])
    answers = np.column_stack([_join(traces, name) for name in _ANSWERS]).astype("<f2")
    classes = _join(traces, "predicted_class")
    rows = np.hstack([sketches, answers]).astype("<f2").view("<u2")
    _, first, index = np.unique(
        np.column_stack([rows, classes]).astype("<u2"), axis=0, return_index=True, return_inverse=True
    )
    # Rows are kept in order of first appearance, so that the indices compress well.
    order = np.argsort(first)
    place = np.empty(len(order), "<u4")
    place[order] = np.arange(len(order))
    first = first[order]
    keys = [
        {name: getattr(trace, name) for name in ("source", "number", "victim", "kind", "attack", "persona")}
        | {"count": len(trace)}
        for trace in traces
    ]
    arrays = {
        "keys": np.frombuffer(json.dumps(keys).encode(), np.uint8),
        "sketches": _planes(rows[first, : sketches.shape[1]]),
        "answers": _planes(rows[first, sketches.shape[1] :]),
        "classes": classes[first].astype(np.uint8),
        "row": _planes(place[index.ravel()].astype("<u4").view("<u2").reshape(-1, 2)),
        "time_ms": (_join(traces, "time_ms") - WEEK_START_MS).astype("<u4"),
        "is_attack": np.packbits(_join(traces, "is_attack")),
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def unpack(blob: bytes) -> list[KeyTrace]:
    """Read what `pack` wrote."""
    with np.load(io.BytesIO(lzma.decompress(blob)), allow_pickle=False) as stored:
        arrays: dict[str, NDArray[Any]] = dict(stored)
    sketches, answers = _values(arrays["sketches"]), _values(arrays["answers"])
    row = np.ascontiguousarray(_values(arrays["row"]).view("<u2")).view("<u4").ravel()
    time_ms = WEEK_START_MS + arrays["time_ms"].astype(np.int64)
    is_attack = np.unpackbits(arrays["is_attack"], count=len(row)).astype(np.bool_)
    traces = []
    start = 0
    for key in json.loads(arrays["keys"].tobytes()):
        span = slice(start, start := start + key.pop("count"))
        at = row[span]
        half = sketches.shape[1] // 2
        traces.append(
            KeyTrace(
                **key,
                input_sketch=sketches[at, :half],
                embedding_sketch=sketches[at, half:],
                predicted_class=arrays["classes"][at],
                **{name: answers[at, column] for column, name in enumerate(_ANSWERS)},
                time_ms=time_ms[span],
                is_attack=is_attack[span],
            )
        )
    return traces


def _join(traces: Sequence[KeyTrace], name: str) -> NDArray[Any]:
    return np.concatenate([getattr(trace, name) for trace in traces])


def _planes(words: NDArray[Any]) -> NDArray[np.uint8]:
    """Regroup (rows, columns) of 16-bit words into bytes by significance, column and row."""
    count, width = words.shape
    halves = np.ascontiguousarray(words, "<u2").view(np.uint8).reshape(count, width, 2)
    return np.ascontiguousarray(halves.transpose(2, 1, 0))


def _values(planes: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Turn `_planes` back into (rows, columns) of float16."""
    joined = np.ascontiguousarray(planes.transpose(2, 1, 0)).view("<f2")
    values: NDArray[np.float16] = joined.reshape(planes.shape[2], planes.shape[1]).astype(
        np.float16, copy=False
    )
    return values
