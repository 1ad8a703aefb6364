"""Schemas: no drift, golden files that decode for ever, and one verdict from schema and program."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest

from sinks.schemas import FOLDER, RECORDS, drifted, main, record_schema, schema_files

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).parent.parent / "golden"
DOCUMENTS = [
    pytest.param(name, document, id=f"{name}-{at}")
    for name in RECORDS
    for at, document in enumerate(json.loads((GOLDEN / f"{name}.v1.json").read_text(encoding="utf-8")))
]
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**31,
    0.5,
    1.5,
    2**63,
    "",
    "x",
    "a\n",
    "A" * 129,
    "A" * 88,
    [],
    {},
    {"x": "y"},
    [1],
)


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        json.loads((FOLDER / f"{name}.v1.json").read_text(encoding="utf-8"))
    )


def mutations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "unknown field", document | {"unheard_of": 1}
    yield "another schema", document | {"schema": 2}
    yield "a schema in words", document | {"schema": "1"}
    for field, value in document.items():
        yield f"no {field}", {name: item for name, item in document.items() if name != field}
        for odd in ODD_VALUES:
            yield f"{field} is {odd!r}"[:60], document | {field: odd}
        if isinstance(value, str):
            yield f"{field} with a line feed", document | {field: value + "\n"}
            yield f"{field} in capitals", document | {field: value.upper()}
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            for what, mutated in mutations(inner):
                changed = copy.deepcopy(document)
                changed[field] = [mutated] if isinstance(value, list) else mutated
                yield f"{field}: {what}", changed


def holds(written: Any, document: Any) -> bool:
    """Whether everything in the document was written again; what it did not say may be added."""
    if isinstance(document, dict):
        return all(name in written and holds(written[name], value) for name, value in document.items())
    return bool(written == document)


def decodes(name: str, document: dict[str, Any]) -> bool:
    try:
        msgspec.json.decode(json.dumps(document), type=RECORDS[name])
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize(("name", "document"), DOCUMENTS)
def test_golden_documents_decode_and_survive(name: str, document: dict[str, Any]) -> None:
    record = msgspec.json.decode(json.dumps(document), type=RECORDS[name])
    written = json.loads(msgspec.json.encode(record))
    assert holds(written, document)
    assert validator(name).is_valid(document)
    assert validator(name).is_valid(written)


@pytest.mark.parametrize(("name", "document"), DOCUMENTS)
def test_schema_and_program_refuse_the_same(name: str, document: dict[str, Any]) -> None:
    check = validator(name)
    verdicts = [
        (what, check.is_valid(mutated), decodes(name, mutated)) for what, mutated in mutations(document)
    ]
    assert [verdict for verdict in verdicts if verdict[1] != verdict[2]] == []
    assert sum(not accepted for _, accepted, _ in verdicts) > len(document)


def test_the_schema_files_have_not_drifted() -> None:
    assert drifted() == []
    assert main(["--check"]) == 0


def test_drift_is_seen(tmp_path: Path) -> None:
    for name, content in schema_files().items():
        (tmp_path / name).write_bytes(content)
    assert drifted(tmp_path) == []
    (tmp_path / "command.v1.json").write_text("{}", encoding="utf-8")
    (tmp_path / "feedback.v1.json").unlink()
    (tmp_path / "stray.v1.json").write_text("{}", encoding="utf-8")
    assert drifted(tmp_path) == ["command.v1.json", "feedback.v1.json", "stray.v1.json"]


@pytest.mark.parametrize("name", RECORDS)
def test_every_schema_is_itself_valid_and_every_record_has_a_golden_file(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(record_schema(name))
    assert (GOLDEN / f"{name}.v1.json").exists()
