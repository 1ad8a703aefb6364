"""Memory that grows with a key: pages of 16, 64 and 256 entries, taken from pools that keys share.

Most keys of a service send a handful of queries. Remembering those takes a small page; a key moves to the
next size when its page is full. An entry is `ENTRY_BYTES` bytes; a page holds the first byte of all its
entries, then the second of all, and so on, so that entries can be compared side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detectors.kernelcache import njit
from detectors.memory import reserve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.base import Array

ENTRY_BYTES = 13
LENGTHS = (16, 64, 256)
"""Entries of a page, by size."""
_LENGTHS = np.array(LENGTHS)


class PageArrays(NamedTuple):
    """What kernels need of the pools.

    Attributes
    ----------
    memory : int8
        All pages, the smallest first.
    start : int64 (3,)
        Where the pages of each size begin.
    free : uint32 (3, capacity)
        Stacks of pages that were given back.
    head : int64 (3, 2)
        Pages ever taken, and height of the stack, by size.
    """

    memory: NDArray[np.int8]
    start: NDArray[np.int64]
    free: NDArray[np.uint32]
    head: NDArray[np.int64]


class Pages:
    """The pools of one engine: room for a page of every size a slot, taken as keys ask for it.

    Parameters
    ----------
    capacity
        Slots.
    """

    def __init__(self, capacity: int) -> None:
        bounds = capacity * ENTRY_BYTES * np.cumsum([0, *LENGTHS])
        self.arrays = PageArrays(
            memory=reserve((int(bounds[-1]),), np.int8),
            start=bounds[:-1].astype(np.int64),
            free=reserve((len(LENGTHS), capacity), np.uint32),
            head=np.zeros((len(LENGTHS), 2), np.int64),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the pages taken so far; those that were given back wait for the next key."""
        return int(self.arrays.head[:, 0] @ _LENGTHS) * ENTRY_BYTES

    def release(self, page: NDArray[np.uint32], count: NDArray[np.uint32]) -> None:
        """Take pages back, by their numbers and how many entries were ever put in them."""
        _release(page, count, self.arrays.free, self.arrays.head)

    def export(self, page: NDArray[np.uint32], count: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Return the entries of some pages, one after the other: uint8, `ENTRY_BYTES` an entry."""
        filled = np.minimum(count, LENGTHS[-1]).astype(np.int64)
        out = np.empty(int(filled.sum()) * ENTRY_BYTES, np.int8)
        _export(page, filled, self.arrays.memory, self.arrays.start, out)
        return out.view(np.uint8)

    def fill(self, count: NDArray[np.uint32], entries: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """Put exported entries into new pages, and return the pages' numbers.

        Raises
        ------
        ValueError
            If there are more or fewer entries than the counts say.
        """
        filled = np.minimum(count, LENGTHS[-1]).astype(np.int64)
        if entries.dtype != np.uint8 or entries.shape != (int(filled.sum()) * ENTRY_BYTES,):
            raise ValueError("damaged dump: the pages do not fit the counts of their entries")
        page = np.zeros(len(count), np.uint32)
        _fill(page, filled, *self.arrays, np.ascontiguousarray(entries).view(np.int8))
        return page


@njit(cache=True, nogil=True, inline="always")
def size_of(count: int) -> int:
    """Return the size of the page that so many entries, at least one, lie in."""
    return int(count > LENGTHS[0]) + int(count > LENGTHS[1])


@njit(cache=True, nogil=True)
def take_page(size: int, free: Array, head: Array) -> Any:
    """Take a page of a size, and return its number; its bytes may be anything."""
    if head[size, 1] > 0:
        head[size, 1] -= 1
        return int(free[size, head[size, 1]])
    head[size, 0] += 1
    return int(head[size, 0] - 1)


@njit(cache=True, nogil=True)
def give_page(number: int, size: int, free: Array, head: Array) -> None:
    """Give a page back."""
    free[size, head[size, 1]] = number
    head[size, 1] += 1


@njit(cache=True, nogil=True, inline="always")
def place_of(number: int, size: int, start: Array) -> int:
    """Return where a page begins in the memory."""
    return int(start[size] + number * LENGTHS[size] * ENTRY_BYTES)


@njit(cache=True, nogil=True)
def next_page(number: int, count: int, memory: Array, start: Array, free: Array, head: Array) -> Any:
    """Return the page with room for the entry after `count` others, which are moved if it is a new one."""
    if count >= LENGTHS[-1]:
        return number
    size = size_of(count + 1)
    if count == 0:
        return take_page(size, free, head)
    before = size_of(count)
    if before == size:
        return number
    larger = take_page(size, free, head)
    old, new = place_of(number, before, start), place_of(larger, size, start)
    for j in range(ENTRY_BYTES):
        for i in range(count):
            memory[new + j * LENGTHS[size] + i] = memory[old + j * LENGTHS[before] + i]
    give_page(number, before, free, head)
    return larger


@njit(cache=True, nogil=True)
def _release(page: Array, count: Array, free: Array, head: Array) -> None:
    for i in range(len(page)):
        if count[i] > 0:
            give_page(page[i], size_of(count[i]), free, head)


@njit(cache=True, nogil=True)
def _export(page: Array, filled: Array, memory: Array, start: Array, out: Array) -> None:
    at = 0
    for i in range(len(page)):
        count = filled[i]
        if count > 0:
            size = size_of(count)
            place = place_of(page[i], size, start)
            for j in range(ENTRY_BYTES):
                first = place + j * LENGTHS[size]
                out[at : at + count] = memory[first : first + count]
                at += count


@njit(cache=True, nogil=True)
def _fill(
    page: Array, filled: Array, memory: Array, start: Array, free: Array, head: Array, entries: Array
) -> None:
    at = 0
    for i in range(len(page)):
        count = filled[i]
        if count > 0:
            size = size_of(count)
            page[i] = take_page(size, free, head)
            place = place_of(page[i], size, start)
            for j in range(ENTRY_BYTES):
                first = place + j * LENGTHS[size]
                memory[first : first + count] = entries[at : at + count]
                at += count
