"""Plain-Python twin of `detectors.signals.request_parameters`: prompts are kept, not hashed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectors.batch import EventBatch
    from detectors.reference import EventReference


def score(batch: EventBatch, keys: list[int], reference: EventReference) -> list[list[float]]:  # noqa: ARG001 - twins share one form
    """Bet on requests that bias the answer, want one or two tokens, and repeat one of seven prompts."""
    prompts: dict[int, list[tuple[bytes, int]]] = {}
    experts: dict[int, list[float]] = {}
    out = []
    for event, key in enumerate(keys):
        bias, limit = int(batch.logit_bias_count[event]), int(batch.max_tokens[event])
        if bias < 0 or limit < 0:
            out.append([math.nan])
            continue
        prompt = (batch.input_sketch[event].tobytes(), int(batch.prefix_hash[event]))
        past = prompts.setdefault(key, [])
        hit = prompt in past and bias > 0 and limit in {1, 2}
        if prompt not in past:
            prompts[key] = [prompt, *past][:7]
        experts[key] = [
            min((value + 1) * (rate / 0.01 if hit else (1 - rate) / 0.99), 1e30)
            for value, rate in zip(experts.get(key, [0.0] * 3), (0.1, 0.5, 0.9), strict=True)
        ]
        out.append([math.log10(1 + sum(experts[key]) / 3e5)])
    return out
