"""`modelwarden simulate`: make traffic, benign and hostile, to a topic, a file or standard output."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec

from sinks.secretfile import read_key_secret
from streams.cli.output import examples
from streams.cli.progress import EXIT_INTERRUPTED, show_progress, stop_on_interrupt
from streams.clock import SystemClock
from streams.places import STANDARD, TopicPlace, open_writer, parse_place
from streams.samples import load_sample
from streams.settings import load_settings
from streams.simulate import MAX_EVENTS, Plan, Simulation, names

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from sinks.kafkasecurity import KafkaSecurity

DEFAULT_EVENTS = 20_000
TELL_EVERY = 500
_MIN_WAIT_S = 0.002


@click.command(
    "simulate",
    epilog=examples(
        "modelwarden simulate --events 20000 --to events.jsonl.gz --labels labels.json",
        "modelwarden simulate --attacks jbda,uniform --personas clean,poller | head -3",
        "modelwarden simulate --rate 200 --start-time now --to kafka://127.0.0.1:9092/modelwarden.events",
        "modelwarden simulate --list",
    ),
)
@click.option(
    "--to",
    default=STANDARD,
    show_default=True,
    metavar="PLACE",
    help="FILE, FILE.gz, kafka://host:port/topic, or - for standard output.",
)
@click.option(
    "--events",
    type=click.IntRange(1, MAX_EVENTS),
    default=DEFAULT_EVENTS,
    show_default=True,
    help="Stop after this many.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Events a second to send; 0: as fast as possible.",
)
@click.option(
    "--personas",
    default="all",
    show_default=True,
    metavar="NAMES",
    help="Kinds of benign customers, by comma.",
)
@click.option(
    "--attacks", default="all", show_default=True, metavar="NAMES", help="Attacks, by comma; none for none."
)
@click.option(
    "--benign-keys",
    type=click.IntRange(0, 1_000_000),
    metavar="N",
    help="Benign customers.  [default: as many as it takes]",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Another seed: other keys, and other customers among them.",
)
@click.option(
    "--start-time",
    metavar="TIME",
    help="Time in the first event: ISO 8601, or now.  [default: the recorded week]",
)
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    metavar="FACTOR",
    help="Compress the time in the events.  [default: 1; after --start-time now, "
    "so that events are sent when they happen]",
)
@click.option(
    "--key-secret",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Secret for the key references.  [default: made from the seed]",
)
@click.option(
    "--key-epoch",
    type=click.IntRange(0, 65_535),
    default=0,
    show_default=True,
    help="Rotation epoch of the key references.",
)
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write what each key really is, as JSON.",
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="MODELWARDEN_SETTINGS",
    help="Settings file; only kafka_security is used, for a topic.",
)
@click.option("--list", "show_names", is_flag=True, help="Print the personas and attacks, and stop.")
def command(
    *,
    show_names: bool,
    to: str,
    rate: float,
    labels: Path | None,
    settings_file: Path | None,
    **options: Any,
) -> None:
    """Make traffic from real recordings: benign customers of several kinds, and attacks among them.

    Keys are re-keyed and re-timed by the seed: the same options give the same bytes. The time in the events
    (--start-time, --speed) and the pace of sending (--rate) are separate.
    """
    sample = load_sample()
    if show_names:
        click.echo(f"personas: {', '.join(names(sample, 'persona'))}")
        click.echo(f"attacks:  {', '.join(names(sample, 'attack'))}")
        return
    place = parse_place(to)
    security = load_settings(settings_file, os.environ).kafka_security
    simulation = Simulation(_plan(rate=rate, **options), sample)
    with stop_on_interrupt() as stop:
        if isinstance(place, TopicPlace):
            sent = _to_topic(simulation, place, security, rate, stop)
        else:
            with open_writer(place) as file:
                sent = _send(simulation, _line_writer(file, flush=rate > 0 and to == STANDARD), rate, stop)
        interrupted = stop.is_set()
    kinds = [label.kind for label in simulation.labels()]
    if labels is not None:
        labels.write_bytes(msgspec.json.format(msgspec.json.encode(simulation.labels()), indent=1) + b"\n")
    of = f" of {len(simulation):,}" if interrupted else ""
    click.echo(
        f"{'Interrupted: ' if interrupted else ''}{sent:,} events{of} to "
        f"{'standard output' if to == STANDARD else to} "
        f"({kinds.count('benign'):,} benign keys, {kinds.count('attack'):,} attacks, "
        f"{_words(simulation.duration_ms)} of event time)",
        err=True,
    )
    if interrupted:
        raise SystemExit(EXIT_INTERRUPTED)


def _plan(  # noqa: PLR0913 - one parameter per option
    *,
    events: int,
    rate: float,
    personas: str,
    attacks: str,
    benign_keys: int | None,
    seed: int,
    start_time: str | None,
    speed: float | None,
    key_secret: Path | None,
    key_epoch: int,
) -> Plan:
    is_now = start_time == "now"
    if is_now and not rate and speed is None:
        raise click.UsageError("--start-time now puts events ahead of the clock. Add --rate or --speed.")
    chosen: dict[str, Any] = {"events": events, "benign_keys": benign_keys, "seed": seed, "epoch": key_epoch}
    if start_time is not None:
        chosen["start_ms"] = SystemClock().now_ms() if is_now else _parse_time(start_time)
    plan = Plan(
        personas=() if personas == "all" else _split(personas),
        attacks=None if attacks == "all" else () if attacks == "none" else _split(attacks),
        secret=None if key_secret is None else read_key_secret(key_secret),
        **chosen,
    )
    if is_now and speed is None:
        recorded = Simulation(plan, load_sample())
        speed = max(recorded.duration_ms, 1) / (1000 * len(recorded) / rate)
    return plan if speed is None else msgspec.structs.replace(plan, speed=speed)


def _split(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parse_time(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            "not a time; write 2026-01-05T08:00:00Z, or now", param_hint="--start-time"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _words(duration_ms: int) -> str:
    seconds = duration_ms / 1000
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _to_topic(
    simulation: Simulation, place: TopicPlace, security: KafkaSecurity, rate: float, stop: Event
) -> int:
    # Imported here: kafka-python is slow to import and needed only for topics.
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415

    bus = KafkaBus(place.bootstrap, security=security)
    bus.partition_count(place.topic)
    try:
        # Without the event's own time as the record's: topics expire records by that.
        return _send(
            simulation, lambda key, value: bus.send(place.topic, value, key=key.encode()), rate, stop
        )
    finally:
        bus.close()


def _line_writer(file: BinaryIO, *, flush: bool) -> Callable[[str, bytes], object]:
    def put(_key: str, value: bytes) -> None:
        file.write(value + b"\n")
        if flush:
            file.flush()

    return put


def _send(simulation: Simulation, put: Callable[[str, bytes], object], rate: float, stop: Event) -> int:
    """Give every event to `put`, at `rate` events a second if that is not 0; return how many."""
    started = time.monotonic()
    sent = 0
    with show_progress("Simulating", len(simulation), "events") as tell:
        for key, value in simulation.events():
            wait_s = started + sent / rate - time.monotonic() if rate else 0.0
            if (wait_s > _MIN_WAIT_S and stop.wait(wait_s)) or stop.is_set():
                break
            put(key, value)
            sent += 1
            if sent % TELL_EVERY == 0:
                tell(sent)
    return sent
