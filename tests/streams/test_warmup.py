"""A worker's warm-up compiles what live traffic needs."""

from __future__ import annotations

from streams.faustbatch import recordbatch
from streams.formats import columns, headers, jsonscan, names, record, sketches
from streams.pipeline import build_pipeline
from streams.settings import Settings
from streams.warmup import warm_up


def test_every_format_is_warm_afterwards() -> None:
    steps = warm_up(build_pipeline, Settings())
    assert [step.step for step in steps][-2:] == ["micro-batches, detection", "state"]
    kernels = [
        recordbatch.read_records,
        recordbatch._read_headers,
        jsonscan._scan,
        sketches._decode_base64,
        names._intern,
        headers._read,
        record._fill,
        columns._fill,
    ]
    compiled = [len(kernel.signatures) for kernel in kernels]
    assert min(compiled) >= 1, "other tests may have compiled some for more kinds of arrays"
