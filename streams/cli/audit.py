"""`modelwarden audit`: verify the chain, note its heads, export it to a SIEM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from streams.cli.output import examples, print_json, print_rows
from streams.cli.place import place_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sinks.audit import Verifier

EXIT_BROKEN = 1


@click.group(
    "audit",
    epilog=examples(
        "modelwarden audit verify",
        "modelwarden audit heads -o json > heads.json   # keep it where the brokers' owners cannot write",
        "modelwarden audit verify --heads heads.json",
        "modelwarden audit export --format ocsf > findings.ndjson",
    ),
)
def command() -> None:
    """Prove what was found, decided and done: a hash chain of every alert, decision and person's word."""


@command.command(
    "verify",
    epilog=examples(
        "modelwarden audit verify --kafka 127.0.0.1:9092",
        "modelwarden audit verify --run run/1 -o json",
        "modelwarden audit verify --heads heads.json",
    )
    + "\n\nExit codes: 0 the chain holds, 1 it does not.",
)
@click.option("--heads", "heads_file", type=click.Path(dir_okay=False, exists=True, path_type=Path),
              metavar="FILE", help="Heads noted earlier: the chain must contain them still.")  # fmt: skip
@place_options
def verify(*, heads_file: Path | None, output: str, **place: Any) -> None:
    """Check every entry against the one before it; find what was changed, removed or reordered."""
    from sinks.audit import Head  # noqa: PLC0415 - numpy, which --help need not wait for

    verifier, source = _verify(**place)
    if heads_file is not None:
        heads = msgspec.json.decode(heads_file.read_bytes(), type=list[Head])
        verifier.compare_heads({head.partition: head for head in heads})
    heads_found = verifier.heads
    if output != "table":
        print_json({"source": source, "holds": not verifier.faults, "heads": heads_found,
                    "faults": verifier.faults, "repeated": verifier.repeated})  # fmt: skip
    else:
        entries = sum(head.entries for head in heads_found)
        if verifier.faults:
            columns = {"kind": "fault", "partition": "partition", "sequence": "entry", "place": "place",
                       "detail": "what"}  # fmt: skip
            print_rows(verifier.faults, columns, output)
        state = f"{len(verifier.faults)} fault(s)" if verifier.faults else "the chain holds"
        again = f" ({verifier.repeated} stand there twice)" if verifier.repeated else ""
        click.echo(f"{source}: {entries:,} entries in {len(heads_found)} partition(s){again}: {state}.")
    if verifier.faults:
        raise SystemExit(EXIT_BROKEN)


@command.command("heads", epilog=examples("modelwarden audit heads -o json > heads.json"))
@place_options
def heads(*, output: str, **place: Any) -> None:
    """Print where each partition's chain ends, to be kept elsewhere: it proves later that nothing was cut."""
    verifier, _ = _verify(**place)
    columns = {"partition": "partition", "entries": "entries", "hash": "hash of the last"}
    print_rows(verifier.heads, columns, output, right=("entries",))
    if verifier.faults:
        raise SystemExit(EXIT_BROKEN)


@command.command(
    "export",
    epilog=examples(
        "modelwarden audit export --format ocsf --kafka 127.0.0.1:9092 > findings.ndjson",
        "modelwarden audit export --run run/1 | jq -r .kind | sort | uniq -c",
    ),
)
@click.option("--format", "form", type=click.Choice(["ocsf", "entries"]), default="entries",
              show_default=True, help="OCSF detection findings (class 2004), or the entries.")  # fmt: skip
@place_options
def export(*, form: str, output: str, **place: Any) -> None:
    """Write the chain as JSON lines: as it stands, or its alerts with their decisions as OCSF findings."""
    del output  # always JSON lines
    if form == "entries":
        for _, _, value in _entries(**place)[0]:
            click.echo(value)
        return
    for finding in _findings(**place):
        print_json(finding)


def _findings(**place: Any) -> Iterator[dict[str, Any]]:
    from detectors.alert import Alert  # noqa: PLC0415 - see verify
    from sinks.ocsf import detection_finding  # noqa: PLC0415
    from sinks.records import AuditEntry, Decision  # noqa: PLC0415

    alerts: dict[str, Alert] = {}
    decisions: dict[str, list[Decision]] = {}
    decoder = msgspec.json.Decoder(AuditEntry)
    for _, _, value in _entries(**place)[0]:
        entry = decoder.decode(value)
        if entry.kind == "alert":
            alert = msgspec.json.decode(entry.record, type=Alert)
            alerts[alert.alert_id] = alert
        elif entry.kind == "decision":
            decision = msgspec.json.decode(entry.record, type=Decision)
            decisions.setdefault(decision.alert_id, []).append(decision)
    for alert in alerts.values():
        yield detection_finding(alert, decisions.get(alert.alert_id, ()))


def _verify(**place: Any) -> tuple[Verifier, str]:
    from sinks.audit import Verifier  # noqa: PLC0415 - see verify

    verifier = Verifier()
    entries, source = _entries(**place)
    for where, partition, value in entries:
        verifier.add(value, partition, where)
    return verifier, source


def _entries(
    *, run_dir: Path | None, kafka: str | None, settings_file: Path | None
) -> tuple[Iterator[tuple[str, int, bytes]], str]:
    """Return the entries, each with its place and partition, and what they were read from."""
    from streams.audittrail import read_run, read_topic  # noqa: PLC0415 - see verify
    from streams.cli.place import DEFAULT_RUNS  # noqa: PLC0415
    from streams.findings import newest_run  # noqa: PLC0415

    if kafka is None:
        folder = run_dir or newest_run(DEFAULT_RUNS)
        return read_run(folder), str(folder)
    from streams.cli.sign import read_settings  # noqa: PLC0415

    settings = read_settings(kafka, settings_file)
    return read_topic(settings), f"kafka://{settings.kafka}/{settings.topic('audit')}"
