"""Labelled query traces: files of recorded queries, read as one `KeyTrace` per API key.

A folder holds base files `<victim>__<name>__s<seed>.npz` and derived files `derived__<victim>__<name>.npz`.
Two forms of each are read: classifier traces store their columns (a derived file lists rows of base files),
LLM traces store request parameters and point into `pool.npz` for the sketches. Labels (`is_attack`,
`persona`, `kind`) are for scoring only and never reach a batch or an event.
"""

from __future__ import annotations

import base64
import json
import re
import zipfile
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from detectors.batch import SKETCH_SIZE, EventBatch, build_batch, concatenate, format_key_reference
from sinks.errors import ModelwardenError
from sinks.records import ServingEvent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

WEEK_START_MS = 1_767_571_200_000
"""Monday 2026-01-05 00:00 UTC: traces count milliseconds from the start of a week."""

TraceKind = Literal["benign", "attack", "mix", "split", "cover"]
"""`cover` is benign traffic that mixes draw from, and their control: it calibrates nothing."""

_STORED = {
    "input_sketch": "xs",
    "embedding_sketch": "es",
    "predicted_class": "cls",
    "top1": "top1",
    "margin": "margin",
    "entropy_nats": "ent",
}
_PARAMETERS = {
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "choice_count": "n",
    "top_logprobs": "top_logprobs",
    "logit_bias_count": "logit_bias",
    "prefix_hash": "sys_hash",
}
_BASE_NAME = re.compile(r"(?P<victim>[^_].*?)__(?P<name>.+)__s(?P<seed>\d+)")
_DERIVED_NAME = re.compile(r"derived__(?P<victim>.+?)__(?P<name>.+)")
_COVER_NAME = re.compile(r".+__benign__s6\d\d")

_NAMES = "<victim>__<name>__s<seed>.npz or derived__<victim>__<name>.npz"

Columns = dict[str, "NDArray[Any]"]


class TraceError(ModelwardenError):
    """A trace folder or file cannot be read."""


@dataclass(frozen=True, eq=False)
class KeyTrace:
    """All queries of one API key to one victim model, in order of arrival (n rows).

    Attributes
    ----------
    source : str
        Stem of the file that the key was read from.
    number : int
        Number of the key within the file.
    victim : str
        Model that was queried.
    kind : str
        See `TraceKind`.
    attack : str or None
        Name of the attack, as in the file's name; None for benign and cover keys.
    persona : str or None
        Kind of benign customer that the key is, or that an attack hides behind.
    input_sketch, embedding_sketch : float16 (n, 32)
    predicted_class : uint8 (n,)
    top1, margin, entropy_nats : float16 (n,)
    time_ms : int64 (n,)
        Milliseconds since 1970; the trace's week starts at `WEEK_START_MS`.
    is_attack : bool (n,)
        Label of each query.
    parameters : mapping
        LLM request parameters under their names in `EventBatch`; empty for classifiers.
    """

    source: str
    number: int
    victim: str
    kind: TraceKind
    attack: str | None
    persona: str | None
    input_sketch: NDArray[np.float16]
    embedding_sketch: NDArray[np.float16]
    predicted_class: NDArray[np.uint8]
    top1: NDArray[np.float16]
    margin: NDArray[np.float16]
    entropy_nats: NDArray[np.float16]
    time_ms: NDArray[np.int64]
    is_attack: NDArray[np.bool_]
    parameters: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the queries."""
        return len(self.time_ms)

    @property
    def key(self) -> tuple[int, int]:
        """High and low 64 bits of the key's reference, from `source` and `number`."""
        digest = blake2b(f"{self.source}:{self.number}".encode(), digest_size=16, person=b"mw-trace").digest()
        return int.from_bytes(digest[:8]), int.from_bytes(digest[8:])

    @property
    def key_reference(self) -> str:
        """The key's reference as text, rotation epoch 0."""
        return format_key_reference(0, *self.key)

    def take(self, rows: slice) -> KeyTrace:
        """Return the same key with only some of its queries."""
        columns = {name: getattr(self, name)[rows] for name in (*_STORED, "time_ms", "is_attack")}
        parameters = {name: values[rows] for name, values in self.parameters.items()}
        return replace(self, **columns, parameters=parameters)

    def batch(
        self,
        *,
        topic: str = "events",
        key: tuple[int, int] | None = None,
        first_offset: int = 0,
        models: tuple[str, ...] | None = None,
    ) -> EventBatch:
        """Return the queries as one batch of a single key, without labels.

        Parameters
        ----------
        topic : str
            Topic that the batch claims to come from.
        key : tuple of int, optional
            High and low half of the key reference; `self.key` if not given.
        first_offset : int
            Offset of the first query; the others follow.
        models : tuple of str, optional
            Names of all models in play, the victim among them, so that batches of several victims can be
            joined. Only the victim if not given.
        """
        count = len(self)
        names = models or (self.victim,)
        columns: dict[str, Any] = {name: getattr(self, name) for name in _STORED} | dict(self.parameters)
        return build_batch(
            key=np.tile(np.array(key or self.key, np.uint64), (count, 1)),
            time_ms=self.time_ms,
            model=np.full(count, names.index(self.victim), np.int32),
            models=names,
            topic=topic,
            offset=np.arange(first_offset, first_offset + count, dtype=np.int64),
            **columns,
        )

    def events(self, key_reference: str | None = None) -> Iterator[ServingEvent]:
        """Yield the queries as a serving layer would send them, without labels."""
        reference = key_reference or self.key_reference
        inputs, embeddings = _encode(self.input_sketch), _encode(self.embedding_sketch)
        columns = {
            "predicted_class": self.predicted_class.tolist(),
            "top1": _ratio(self.top1),
            "margin": _ratio(self.margin),
            "entropy_nats": np.maximum(self.entropy_nats.astype(np.float64), 0.0).tolist(),
            **{name: values.tolist() for name, values in self.parameters.items()},
        }
        for row, time_ms in enumerate(self.time_ms.tolist()):
            yield ServingEvent(
                time_ms=time_ms,
                key=reference,
                model=self.victim,
                input_sketch=inputs[row],
                embedding_sketch=embeddings[row],
                **{name: values[row] for name, values in columns.items()},
            )


def arrival_order(traces: Sequence[KeyTrace]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Interleave keys by time: return, per event, the index of its trace and the row within that trace."""
    lengths = [len(trace) for trace in traces]
    owner = np.repeat(np.arange(len(traces)), lengths)
    row = np.concatenate([np.arange(length) for length in lengths])
    order = np.argsort(np.concatenate([trace.time_ms for trace in traces]), kind="stable")
    return owner[order], row[order]


def interleave(traces: Sequence[KeyTrace], *, topic: str = "events") -> EventBatch:
    """Join keys of any models into one batch in the order of `arrival_order`; offsets count from 0."""
    models = tuple(sorted({trace.victim for trace in traces}))
    joined = concatenate([trace.batch(topic=topic, models=models) for trace in traces])
    order = np.argsort(joined.time_ms, kind="stable")
    return replace(joined.take(order), offset=np.arange(len(order), dtype=np.int64))


def read_folder(folder: str | Path) -> list[KeyTrace]:
    """Read every trace file of a folder, in order of file name.

    Raises
    ------
    TraceError
        If the folder is missing, holds no trace file, or a file in it cannot be read.
    """
    return [trace for path in trace_files(folder) for trace in read_trace(path)]


def drop_parameters(traces: Sequence[KeyTrace]) -> list[KeyTrace]:
    """Return the same keys without their request parameters, token counts and prefix hashes."""
    return [replace(trace, parameters={}) for trace in traces]


def trace_files(folder: str | Path) -> list[Path]:
    """List the trace files of a folder, in order of name.

    Raises
    ------
    TraceError
        If the folder is missing or holds no trace file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TraceError(
            str(folder), "no such folder", "Give the folder that holds the trace files (*__*.npz)"
        )
    paths = sorted(path for path in folder.glob("*.npz") if _parse_name(path.stem))
    if not paths:
        raise TraceError(str(folder), "no trace files in this folder", f"Give one that holds {_NAMES}")
    return paths


def read_trace(path: str | Path) -> list[KeyTrace]:
    """Read one trace file, one `KeyTrace` per API key, in order of key number.

    Raises
    ------
    TraceError
        If the file, or a file that it points to, is missing or not a trace.
    """
    path = Path(path)
    match = _parse_name(path.stem)
    if match is None:
        raise TraceError(str(path), "not the name of a trace file", f"Give one named {_NAMES}")
    file = _load(path)
    try:
        meta = json.loads(str(file["meta"]))
        columns = _columns(path, file)
        return _split_keys(path, match["victim"], match["name"], meta, file, columns)
    except (KeyError, IndexError, ValueError) as error:
        why = f"not a trace file ({type(error).__name__}: {error})"
        raise TraceError(str(path), why, "Compare its columns with those in streams/traces.py") from error


def _parse_name(stem: str) -> re.Match[str] | None:
    return (_DERIVED_NAME if stem.startswith("derived__") else _BASE_NAME).fullmatch(stem)


def _load(path: Path) -> Columns:
    """Read every array of an npz file; object arrays are refused."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except FileNotFoundError as error:
        raise TraceError(str(path), "no such file", "Copy it beside the files that point to it") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise TraceError(str(path), f"not a readable npz file ({error})", "Copy it again") from error


def _columns(path: Path, file: Columns) -> Columns:
    """Return the columns of `KeyTrace` for every row of the file, whichever form it has."""
    if "xi" in file:
        pool = _load(path.with_name("pool.npz"))
        columns = {name: pool[stored][file["xi"]] for name, stored in _STORED.items() if stored in pool}
        columns["input_sketch"] = pool["x"][file["xi"]]
        columns["embedding_sketch"] = pool["x"][file["ei"]]
        columns |= {name: file[stored] for name, stored in _PARAMETERS.items()}
    elif "files" in file:
        bases = [_load(path.with_name(f"{name}.npz")) for name in file["files"]]
        columns = {name: _gather(bases, stored, file["fi"], file["row"]) for name, stored in _STORED.items()}
    else:
        columns = {name: file[stored] for name, stored in _STORED.items()}
    columns["time_ms"] = WEEK_START_MS + file["t"].astype(np.int64)
    sketches = columns["input_sketch"], columns["embedding_sketch"]
    if any(sketch.shape != (len(file["t"]), SKETCH_SIZE) for sketch in sketches):
        raise ValueError(f"sketches must have {SKETCH_SIZE} numbers a row and one row for each time in t")
    return columns


def _gather(bases: list[Columns], stored: str, file_index: NDArray[Any], row: NDArray[Any]) -> NDArray[Any]:
    """Collect one column of a derived file from the base files that it points to."""
    first = bases[0][stored]
    values = np.empty((len(row), *first.shape[1:]), first.dtype)
    for index, base in enumerate(bases):
        chosen = file_index == index
        values[chosen] = base[stored][row[chosen]]
    return values


def _split_keys(  # noqa: PLR0913, PLR0917 - the parts of one file, read by one caller
    path: Path, victim: str, name: str, meta: dict[str, Any], file: Columns, columns: Columns
) -> list[KeyTrace]:
    """Cut the rows of a file into keys, keeping the order of arrival within each."""
    count = len(columns["time_ms"])
    is_attack = file.get("is_attack", np.full(count, meta["kind"] == "attack"))
    numbers = file.get("key", np.zeros(count, np.uint16))
    order = np.argsort(numbers, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if count else []
    kind = _kind(path, meta["kind"], has_attack=bool(is_attack.any()))
    attack = None if kind in {"benign", "cover"} else name
    return [
        KeyTrace(
            source=path.stem,
            number=int(numbers[rows[0]]),
            victim=victim,
            kind=kind,
            attack=attack,
            persona=_persona(file, rows[0], int(numbers[rows[0]]), kind),
            is_attack=is_attack[rows],
            parameters={key: columns[key][rows] for key in _PARAMETERS if key in columns},
            **{key: columns[key][rows] for key in (*_STORED, "time_ms")},
        )
        for rows in groups
    ]


def _kind(path: Path, stated: str, *, has_attack: bool) -> TraceKind:
    if not has_attack:
        is_cover = (
            stated != "benign" or _COVER_NAME.fullmatch(path.stem) or path.stem in _cover_names(path.parent)
        )
        return "cover" if is_cover else "benign"
    if stated == "mix":
        return "mix"
    return "split" if stated == "sybil" else "attack"


def _cover_names(folder: Path) -> set[str]:
    """Name the benign files that derived files of the folder draw cover traffic from."""
    names: set[str] = set()
    for path in folder.glob("derived__*.npz"):
        with np.load(path, allow_pickle=False) as stored:
            if "files" in stored.files:
                names |= {str(name) for name in stored["files"]}
    return names


def _persona(file: Columns, row: int, number: int, kind: TraceKind) -> str | None:
    """Return the persona of a benign key, or of the customer whose traffic an attack key hides in."""
    if "hosts" in file and kind in {"mix", "split", "cover"}:
        return str(file["hosts"][file["host"][np.searchsorted(file["key_ids"], number)]]) or None
    if "personas" in file and kind in {"benign", "cover"}:
        return str(file["personas"][file["persona"][row]])
    return None


def _encode(sketches: NDArray[np.float16]) -> list[str]:
    return [base64.b64encode(row.tobytes()).decode() for row in np.ascontiguousarray(sketches, "<f2")]


def _ratio(values: NDArray[Any]) -> list[float]:
    """Return probabilities as Python floats, with the rounding of float16 cut off at 0 and 1."""
    clipped: list[float] = np.clip(values.astype(np.float64), 0.0, 1.0).tolist()
    return clipped
