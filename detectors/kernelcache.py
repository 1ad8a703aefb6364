"""numba's `njit`, with a cache for exactly these sources: every module with kernels imports it from here.

numba compiles a kernel again when its own file changes, but not when a kernel that it calls from another file
does: it would go on with the old code. So the cache of every state of the sources is a directory of its own,
named by a hash of all of them, and set before the first kernel is decorated.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numba
from numba import njit

__all__ = ["CACHE", "njit", "remove_old_kernels", "source_hash"]

_PACKAGES = ("detectors", "streams")
"""All that hold kernels, beside each other."""
_PREFIX = "kernels-"


def _use_cache() -> Path | None:
    """Let numba keep its kernels in the directory of these sources; return it, or None if none can be made.

    It lies in `NUMBA_CACHE_DIR` if that is set, else beside the sources, else in the user's cache.
    """
    name = _PREFIX + source_hash(Path(__file__).parents[1])
    for base in _bases():
        directory = base / name
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        numba.config.CACHE_DIR = str(directory)
        return directory
    return None


def remove_old_kernels() -> int:
    """Delete what was compiled from other sources, beside the cache in use; return how many directories.

    For a command that warms up: a worker of another version may still be reading its own.
    """
    old = [] if CACHE is None else [d for d in CACHE.parent.glob(f"{_PREFIX}*") if d != CACHE]
    for stale in old:
        shutil.rmtree(stale, ignore_errors=True)
    return len(old)


def source_hash(root: Path) -> str:
    """Return a hash of all sources of the packages with kernels, by path and content."""
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        content = source.read_bytes()
        if b"njit" in content:
            digest.update(f"{source.relative_to(root)}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _bases() -> list[Path]:
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        return [Path(given)]
    user = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "/nonexistent") + "/.cache"
    return [Path(__file__).parent / "__pycache__", Path(user) / "modelwarden"]


CACHE = _use_cache()
"""The directory in use; None if there is none that can be written to, and every start compiles."""
