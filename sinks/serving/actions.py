"""What the actions do to a call: a throttle's bucket, coarser answers, watermarked answers.

Pure: time is an argument. An answer is an array of class probabilities; what is given is never changed.
"""

from __future__ import annotations

import hmac
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from sinks.records import Action

BURST_S = 2.0
"""A throttled key may use so many seconds of its rate at once, and one call always."""
MAX_DECIMALS = 15
DEFAULT_WATERMARK_RATIO = 0.005
"""Of the inputs. DAWN (Szyller, Atli, Marchal and Asokan, ACM Multimedia 2021, section 4) finds 0.03 to 0.5 %
enough to prove ownership of a copy."""

_KNOWN: dict[str, frozenset[str]] = {
    "throttle": frozenset({"requests_per_minute"}),
    "coarsen": frozenset({"decimals", "top_k", "label_only"}),
    "watermark": frozenset({"ratio"}),
}


class ParameterError(ValueError):
    """A command's parameters are not its action's."""


def check_parameters(action: Action, parameters: Mapping[str, float]) -> None:
    """Refuse parameters that the action does not know, lacks or cannot use. Raises ParameterError."""
    unknown = parameters.keys() - _KNOWN.get(action, frozenset())
    if unknown:
        raise ParameterError(f"{action} does not know {', '.join(sorted(unknown))}")
    if not all(math.isfinite(value) and value >= 0 for value in parameters.values()):
        raise ParameterError(f"{action}: a parameter is negative or not finite")
    if action == "throttle" and not parameters:
        raise ParameterError("throttle needs requests_per_minute")
    if action == "coarsen" and not parameters:
        raise ParameterError("coarsen needs decimals, top_k or label_only")
    if action == "watermark" and parameters.get("ratio", 0) > 1:
        raise ParameterError("watermark: ratio lies in 0 to 1")


class TokenBucket:
    """Lets calls through at a rate, with bursts; the caller tells the time.

    Parameters
    ----------
    requests_per_minute : float
        0 lets nothing through.
    """

    __slots__ = ("_capacity", "_last_ms", "_tokens", "requests_per_minute")

    def __init__(self, requests_per_minute: float) -> None:
        self.requests_per_minute = requests_per_minute
        self._capacity = max(1.0, requests_per_minute * BURST_S / 60) if requests_per_minute else 0.0
        self._tokens = self._capacity
        self._last_ms: int | None = None

    def take(self, now_ms: int) -> bool:
        """Take one call's token, if there is one."""
        if self._last_ms is not None:  # a clock that jumps back refills nothing
            gained = max(0, now_ms - self._last_ms) * self.requests_per_minute / 60_000
            self._tokens = min(self._capacity, self._tokens + gained)
        self._last_ms = now_ms
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def wait_s(self) -> int:
        """Return whole seconds until the next token, at least 1."""
        if not self.requests_per_minute:
            return 60
        return max(1, math.ceil((1 - self._tokens) * 60 / self.requests_per_minute))


def coarsen(probabilities: ArrayLike, parameters: Mapping[str, float]) -> NDArray[np.float64]:
    """Tell less: only the label, only the `top_k` classes, or fewer `decimals`. The best class stays best.

    Parameters
    ----------
    probabilities : array_like (n_classes,) or (n, n_classes)
    parameters : mapping
        `label_only` (1: one for the best class, zero for the others), `top_k` (zero for all but so many, then
        scaled to sum to 1), `decimals` (then rounded).
    """
    p = np.array(probabilities, np.float64)
    best = p.argmax(axis=-1)
    if parameters.get("label_only"):
        coarse = np.zeros_like(p)
        np.put_along_axis(coarse, best[..., None], 1.0, axis=-1)
        return coarse
    count = int(parameters.get("top_k", 0))
    if 0 < count < p.shape[-1]:
        small = np.argsort(-p, axis=-1, kind="stable")[..., count:]
        np.put_along_axis(p, small, 0.0, axis=-1)
        total = p.sum(axis=-1, keepdims=True)
        p = np.divide(p, total, out=p, where=total > 0)
    if "decimals" in parameters:
        decimals = min(int(parameters["decimals"]), MAX_DECIMALS)
        p = np.round(p, decimals)
        # Rounding may tie the best class with one before it: then it keeps one step more.
        tied = p.argmax(axis=-1) != best
        top = np.take_along_axis(p, best[..., None], axis=-1) + 10.0**-decimals * tied[..., None]
        np.put_along_axis(p, best[..., None], np.round(top, decimals), axis=-1)
    return p


def watermark(
    probabilities: ArrayLike, input_bytes: bytes, secret: bytes, parameters: Mapping[str, float]
) -> NDArray[np.float64]:
    """Answer a small, secret share of inputs with two classes swapped, the same way every time.

    DAWN (see `DEFAULT_WATERMARK_RATIO`): a copy trained on the answers learns the swaps, and its owner can be
    shown them. Which inputs, and which class the best is swapped with, follow from an HMAC of the input, so
    asking again averages nothing out.

    Parameters
    ----------
    probabilities : array_like (n_classes,)
    input_bytes : bytes
        The input, exactly.
    secret : bytes
    parameters : mapping
        `ratio` of inputs; 0.005 unless given.
    """
    p = np.array(probabilities, np.float64)
    digest = hmac.digest(secret, b"mw-watermark:" + input_bytes, "sha256")
    ratio = parameters.get("ratio", DEFAULT_WATERMARK_RATIO)
    if p.size < 2 or int.from_bytes(digest[:8]) / 2**64 >= ratio:
        return p
    best = int(p.argmax())
    other = (best + 1 + int.from_bytes(digest[8:16]) % (p.size - 1)) % p.size
    p[best], p[other] = p[other], p[best]
    return p
