"""Whether requests to a language model sweep its logits: one prompt again and again, one token, biased.

Parameter stealing (Carlini et al., ICML 2024, "Stealing part of a production language model"; Finlayson et
al., COLM 2024; the open-source openlogprobs) reads logit vectors through `logit_bias`: the same prompt, one
or two tokens of answer, a bias on some tokens in every request. Each of the three is honest by itself;
together they hardly occur, since a classifier that biases its labels asks something else each time.

Each request is a hit or not; a Shiryaev-Roberts e-detector bets against a benign hit rate of at most
`BENIGN_HIT_RATE`, with three experts for the share of hits (a mixture of Bernoulli likelihood ratios). One
retry of such a request is honest, so the score begins at `ONE`, which takes three hits. 40 bytes per key.

Blind to: sweeps over more than seven prompts in turn; ordinary prompts with ordinary parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from detectors.kernelcache import njit
from detectors.words import hash_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array, Events, Fields, Slabs
    from detectors.reference import EventReference

NARROW_TOKENS = 2
"""An answer limited to so many tokens is asked for its logits, not for its text."""
PROMPTS = 7
"""Prompts remembered, the latest."""
BENIGN_HIT_RATE = 0.01
"""Upper bound on the share of benign requests that are hits; none of the benign keys measured had one."""
HIT_RATES = (0.1, 0.5, 0.9)
"""Share of hits that each expert bets on."""
ONE = 1e5
"""Evidence that counts as one: the mean number of benign requests until an e-detector gets there is at least
this."""
LARGEST = 1e30
"""Where an expert's value saturates."""


class RequestParameters:
    """Bet against biased one-token requests that repeat a prompt.

    Scores
    ------
    logit_sweep : log10 of one plus the mean of the experts' values in units of `ONE`; about 0 without hits,
        NaN where the event says nothing of its parameters.
    """

    name: ClassVar[str] = "request_parameters"
    family: ClassVar[Family] = "parameters"
    counts_all: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = ("logit_sweep",)
    fields: ClassVar[Fields] = {
        "prompt_hash": ("u4", (PROMPTS,)),
        "sweep_evidence": ("f4", (len(HIT_RATES),)),
    }

    def __init__(self, reference: EventReference) -> None:  # noqa: ARG002 - the contract; the bets need none of it
        """Prepare what a hit and a miss are worth to each expert."""
        rates = np.array(HIT_RATES)
        self._hit = (rates / BENIGN_HIT_RATE).astype(np.float32)
        self._miss = ((1 - rates) / (1 - BENIGN_HIT_RATE)).astype(np.float32)

    @property
    def kernel(self) -> Any:
        """Score rows (`score_requests`)."""
        return score_requests

    def arguments(self, events: Events, slots: NDArray[np.int64], slabs: Slabs) -> tuple[Any, ...]:
        """Return the prompts, the parameters, and the slabs of the keys."""
        asked = events.words, events.prefix_hash, events.max_tokens, events.logit_bias_count
        return (
            events.rows,
            *asked,
            slots,
            slabs["prompt_hash"],
            slabs["sweep_evidence"],
            self._hit,
            self._miss,
        )


@njit(cache=True, nogil=True)
def score_requests(
    out: Array, rows: Array, words: Array, prefix: Array, max_tokens: Array, bias_count: Array,
    slots: Array, prompts: Array, evidence: Array, hit: Array, miss: Array,
) -> None:  # fmt: skip
    """Score each row; NaN where the event says nothing of its parameters."""
    for i in range(len(slots)):
        row, slot = rows[i], slots[i]
        if bias_count[row] < 0 or max_tokens[row] < 0:
            continue
        odd = bias_count[row] > 0 and 1 <= max_tokens[row] <= NARROW_TOKENS
        prompt = np.uint32(hash_words(words[row]) ^ np.uint32(prefix[row] & np.uint64(0xFFFFFFFF)))
        known = False
        for k in range(PROMPTS):
            known |= prompts[slot, k] == prompt
        if not known:
            for k in range(PROMPTS - 1, 0, -1):
                prompts[slot, k] = prompts[slot, k - 1]
            prompts[slot, 0] = prompt
        total = 0.0
        for k in range(len(hit)):
            bet = hit[k] if odd and known else miss[k]
            evidence[slot, k] = min((evidence[slot, k] + np.float32(1)) * bet, np.float32(LARGEST))
            total += evidence[slot, k]
        out[i, 0] = np.log10(1.0 + total / (len(hit) * ONE))
