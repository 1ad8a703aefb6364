"""A worker's warm-up compiles what live traffic needs."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from numba.core.dispatcher import Dispatcher

import streams.samples
from streams.faustbatch import recordbatch
from streams.formats import columns, headers, jsonscan, names, record, sketches
from streams.pipeline import build_pipeline
from streams.samples import load_sample
from streams.settings import Settings
from streams.traces import arrival_order
from streams.warmup import _FORMATS, _fetch, warm_up


def test_every_format_is_warm_afterwards() -> None:
    steps = warm_up(build_pipeline, Settings())
    assert [step.step for step in steps][-2:] == ["single events", "state"]
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


def test_live_traffic_compiles_nothing_more() -> None:
    """In a process of its own: other tests may have compiled what the warm-up left out."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "nothing"


def kernels() -> dict[str, int]:
    """Count the kinds of arguments for which each kernel of ours is compiled."""
    return {
        f"{module.__name__}.{name}": len(kernel.signatures)
        for module in list(sys.modules.values())
        if module.__name__.startswith(("detectors", "streams"))
        for name, kernel in vars(module).items()
        if isinstance(kernel, Dispatcher)
    }


def show_cold_kernels() -> None:
    """Warm up, run recorded traffic in chunks of all sizes and formats; print what was compiled for it."""
    with_references = Settings(references_path=Path(str(streams.samples.__file__)).parent)
    warm_up(build_pipeline, with_references)
    warm = kernels()
    traces = load_sample()
    made = [list(trace.events()) for trace in traces]
    events = [made[trace][row] for trace, row in zip(*arrival_order(traces), strict=True)]
    draw = random.Random(1)  # noqa: S311 - sizes, not secrets
    for settings in (with_references, Settings()):
        pipeline, start = build_pipeline(settings), 0
        while start < len(events):
            size = draw.choice([1, 1, 2, 3, 50, 700])
            messages = []
            for _ in range(draw.choice([1, 1, 2])):  # of which more than one format may be in a chunk
                encode = draw.choice(list(_FORMATS.values()))
                messages += encode(events[start : start + size] or events[-1:])
                start += size
            pipeline.process(_fetch(messages))
        dict(pipeline.dump_parts(changed_only=True))
    cold = [name for name, kinds in kernels().items() if kinds != warm.get(name, 0)]
    sys.stdout.write(" ".join(cold) or "nothing")


if __name__ == "__main__":
    show_cold_kernels()
