"""Records into files: one JSON-lines file a kind in a run's folder, for embedded runs and replay."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Self

import msgspec

from sinks.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class FileSinkError(ModelwardenError):
    """A run's folder or file cannot be written."""


class FileSink:
    """Appends records to `<folder>/<kind>.jsonl`, made when the first record of its kind comes.

    Every `write` is flushed to the operating system; `close` waits until the disk has it.

    Parameters
    ----------
    folder : Path
        Made if missing.

    Raises
    ------
    FileSinkError
        Here, in `write` and in `close`, if the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._encoder = msgspec.json.Encoder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(folder, error) from error

    def write(self, kind: str, records: Iterable[msgspec.Struct]) -> None:
        """Append records of one kind: `alerts`, `decisions`, `commands`, `dead-letters`."""
        lines = b"".join(self._encoder.encode(record) + b"\n" for record in records)
        if not lines:
            return
        path = self.folder / f"{kind}.jsonl"
        try:
            if kind not in self._files:
                self._files[kind] = path.open("ab")
            self._files[kind].write(lines)
            self._files[kind].flush()
        except OSError as error:
            raise self._error(path, error) from error

    def close(self) -> None:
        """Wait until everything is on the disk, and close. Closing twice is harmless."""
        while self._files:
            kind, file = self._files.popitem()
            try:
                with file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise self._error(self.folder / f"{kind}.jsonl", error) from error

    def __enter__(self) -> Self:
        """Return the sink itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @staticmethod
    def _error(path: Path, error: OSError) -> FileSinkError:
        return FileSinkError(
            f"cannot write {path}", str(error.strerror), "Free space or choose another folder"
        )
