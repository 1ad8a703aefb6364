"""Reading trace files: both forms, derived files, labels kept out, clear errors."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from sinks.records import ServingEvent
from streams.traces import WEEK_START_MS, TraceError, read_folder, read_trace

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def answers(count: int, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "xs": rng.standard_normal((count, 32)).astype(np.float16),
        "es": rng.standard_normal((count, 32)).astype(np.float16),
        "cls": rng.integers(0, 10, count).astype(np.uint8),
        "top1": rng.random(count).astype(np.float16),
        "margin": rng.random(count).astype(np.float16),
        "ent": rng.random(count).astype(np.float16),
        "t": np.sort(rng.integers(0, 600_000_000, count)).astype(np.uint32),
    }


def save(path: Path, meta: dict[str, Any], **columns: NDArray[Any]) -> None:
    np.savez(path, allow_pickle=False, meta=np.array(json.dumps(meta)), **columns)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three benign keys, one attack, one mix of both, and cover traffic that only the mix uses."""
    labels: dict[str, NDArray[Any]] = {
        "key": np.array([4, 3, 4, 3, 4, 9], np.uint16),
        "persona": np.array([0, 1, 0, 1, 0, 1], np.uint8),
        "personas": np.array(["clean", "poller"]),
    }
    save(tmp_path / "toy__benign__s1.npz", {"kind": "benign"}, **answers(6, 1), **labels)
    save(tmp_path / "toy__benign__s601.npz", {"kind": "benign"}, **answers(6, 2), **labels)
    save(tmp_path / "toy__noise__s1.npz", {"kind": "attack"}, **answers(5, 3))
    save(
        tmp_path / "derived__toy__mix50_noise.npz",
        {"kind": "mix"},
        files=np.array(["toy__noise__s1", "toy__benign__s601"]),
        fi=np.array([0, 1, 1, 0], np.uint8),
        row=np.array([2, 5, 0, 4], np.uint32),
        key=np.zeros(4, np.uint16),
        t=np.arange(4, dtype=np.uint32),
        is_attack=np.array([True, False, False, True]),
    )
    return tmp_path


def test_folder_gives_one_trace_per_key_with_its_kind(folder: Path) -> None:
    found = [(t.source, t.number, t.kind, t.attack, t.persona, len(t)) for t in read_folder(folder)]
    assert found == [
        ("derived__toy__mix50_noise", 0, "mix", "mix50_noise", None, 4),
        ("toy__benign__s1", 3, "benign", None, "poller", 2),
        ("toy__benign__s1", 4, "benign", None, "clean", 3),
        ("toy__benign__s1", 9, "benign", None, "poller", 1),
        ("toy__benign__s601", 3, "cover", None, "poller", 2),
        ("toy__benign__s601", 4, "cover", None, "clean", 3),
        ("toy__benign__s601", 9, "cover", None, "poller", 1),
        ("toy__noise__s1", 0, "attack", "noise", None, 5),
    ]


def test_benign_file_that_mixes_draw_from_is_cover_under_any_seed(folder: Path) -> None:
    (folder / "toy__benign__s601.npz").rename(folder / "toy__benign__s77.npz")
    mix = dict(np.load(folder / "derived__toy__mix50_noise.npz"))
    mix["files"] = np.array(["toy__noise__s1", "toy__benign__s77"])
    np.savez(folder / "derived__toy__mix50_noise.npz", allow_pickle=False, **mix)
    assert {t.kind for t in read_trace(folder / "toy__benign__s77.npz")} == {"cover"}
    assert {t.kind for t in read_trace(folder / "toy__benign__s1.npz")} == {"benign"}


def test_derived_rows_come_from_their_base_files(folder: Path) -> None:
    (mix,) = read_trace(folder / "derived__toy__mix50_noise.npz")
    attack, cover = answers(5, 3), answers(6, 2)
    expected = np.stack([attack["xs"][2], cover["xs"][5], cover["xs"][0], attack["xs"][4]])
    assert np.array_equal(mix.input_sketch, expected)
    assert mix.is_attack.tolist() == [True, False, False, True]
    assert mix.time_ms.tolist() == [WEEK_START_MS + row for row in range(4)]


def test_batch_and_events_say_the_same_and_carry_no_label(folder: Path) -> None:
    trace = read_trace(folder / "toy__benign__s1.npz")[1]
    batch = trace.batch(topic="events", first_offset=7, models=("other", "toy"))
    events = msgspec.json.decode(msgspec.json.encode(list(trace.events())), type=list[ServingEvent])
    assert batch.offset.tolist() == [7, 8, 9]
    assert batch.models[batch.model[0]] == "toy"
    for row, event in enumerate(events):
        assert event.key == trace.key_reference
        assert event.time_ms == batch.time_ms[row]
        assert event.top1 == batch.top1[row]
        assert event.input_sketch is not None
        decoded = np.frombuffer(base64.b64decode(event.input_sketch), "<f2")
        assert np.array_equal(decoded, batch.input_sketch[row].astype(np.float16))
    assert b"poller" not in msgspec.json.encode(events)


def test_key_references_differ_between_keys_and_files(folder: Path) -> None:
    traces = read_folder(folder)
    assert len({trace.key_reference for trace in traces}) == len(traces)


def test_llm_files_take_sketches_from_the_pool_and_keep_parameters(tmp_path: Path) -> None:
    pool = answers(4, 5)
    pool["x"] = pool.pop("xs")
    np.savez(
        tmp_path / "pool.npz",
        allow_pickle=False,
        **{n: pool[n] for n in ("x", "cls", "top1", "margin", "ent")},
    )
    parameters: dict[str, NDArray[Any]] = {
        name: np.arange(3, dtype=np.uint16)
        for name in ("prompt_tokens", "completion_tokens", "max_tokens", "temperature", "n", "top_logprobs")
    }
    save(
        tmp_path / "derived__llm__sybil2_sweep.npz",
        {"kind": "sybil"},
        xi=np.array([3, 0, 1], np.uint32),
        ei=np.array([2, 2, 0], np.uint32),
        key=np.array([5, 8, 5], np.uint16),
        t=np.arange(3, dtype=np.uint32),
        is_attack=np.ones(3, np.bool_),
        logit_bias=np.array([299, 0, 4], np.uint16),
        sys_hash=np.array([0, 1, 2], np.uint16),
        personas=np.array(["sweep"]),
        persona=np.zeros(3, np.uint8),
        hosts=np.array(["coding", "cron"]),
        host=np.array([1, 0], np.uint8),
        key_ids=np.array([5, 8], np.uint16),
        **parameters,
    )
    first, second = read_folder(tmp_path)
    assert (first.number, first.kind, first.attack, first.persona) == (5, "split", "sybil2_sweep", "cron")
    assert (second.number, second.persona, second.victim) == (8, "coding", "llm")
    batch = first.batch()
    assert np.array_equal(batch.input_sketch, pool["x"][[3, 1]].astype(np.float32))
    assert np.array_equal(batch.embedding_sketch, pool["x"][[2, 0]].astype(np.float32))
    assert batch.logit_bias_count.tolist() == [299, 4]
    assert batch.prefix_hash.tolist() == [0, 2]
    assert [event.choice_count for event in first.events()] == [0, 2]


def test_errors_name_the_path_and_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="absent: no such folder"):
        read_folder(tmp_path / "absent")
    with pytest.raises(TraceError, match="no trace files"):
        read_folder(tmp_path)
    with pytest.raises(TraceError, match="not the name of a trace"):
        read_trace(tmp_path / "notes.npz")
    (tmp_path / "toy__noise__s1.npz").write_text("not a zip")
    with pytest.raises(TraceError, match=r"toy__noise__s1\.npz: not a readable npz file"):
        read_trace(tmp_path / "toy__noise__s1.npz")
    columns = answers(5, 3)
    columns["xs"] = columns["xs"][:, :31]
    save(tmp_path / "toy__short__s1.npz", {"kind": "attack"}, **columns)
    with pytest.raises(TraceError, match="32 numbers a row"):
        read_trace(tmp_path / "toy__short__s1.npz")
    save(tmp_path / "toy__bare__s1.npz", {"kind": "attack"}, t=columns["t"])
    with pytest.raises(TraceError, match=r"toy__bare__s1\.npz: not a trace file"):
        read_trace(tmp_path / "toy__bare__s1.npz")
    save(
        tmp_path / "derived__toy__mix10_gone.npz",
        {"kind": "mix"},
        files=np.array(["toy__gone__s1"]),
        t=columns["t"],
        is_attack=np.ones(5, np.bool_),
    )
    with pytest.raises(TraceError, match=r"toy__gone__s1\.npz: no such file"):
        read_trace(tmp_path / "derived__toy__mix10_gone.npz")
