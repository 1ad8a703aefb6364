"""Where the nouns `keys`, `alerts`, `campaigns` and `decisions` read, and which records they show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from detectors.alert import LEVELS
from streams.cli.output import output_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.findings import Findings
    from streams.fleet import KeyStates

DEFAULT_RUNS = Path("run")


def place_options(function: Callable[..., Any], default: str = "the newest in ./run") -> Callable[..., Any]:
    """Give a command `--run`, `--kafka`, `--settings` and `-o`; `default` says what is read without them."""
    for option in (
        click.option("--run", "--from", "run_dir", type=click.Path(file_okay=False, path_type=Path),
                     metavar="DIR", help=f"A run's folder.  [default: {default}]"),
        click.option("--kafka", metavar="HOST:PORT", help="Read the topics there instead."),
        click.option("--settings", "settings_file", type=click.Path(path_type=Path),
                     envvar="MODELWARDEN_SETTINGS", help="Settings file; with --kafka, names the topics."),
        output_option,
    ):  # fmt: skip
        function = option(function)
    return function


def filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options by which records are chosen."""
    for option in (
        click.option("--level", type=click.Choice(LEVELS), help="This level or above."),
        click.option("--model", metavar="NAME", help="Of this model only."),
        click.option("--tenant", metavar="NAME", help="Of this tenant only."),
        click.option("--key", metavar="REF", help="Of this key, or of those whose reference begins so."),
        click.option("--since", metavar="TIME",
                     help="Not older than this: ISO 8601, or 30m, 12h, 7d before the newest."),
        click.option("--limit", type=click.IntRange(1), metavar="N", help="The newest so many."),
    ):  # fmt: skip
        function = option(function)
    return function


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which records to show."""

    level: str | None = None
    model: str | None = None
    tenant: str | None = None
    key: str | None = None
    since: str | None = None
    limit: int | None = None

    def choose(self, records: list[Any]) -> list[Any]:
        """Return the records that are wanted, in their order; they have `time_ms`, `key` and `model`."""
        newest = max((record.time_ms for record in records), default=0)
        since_ms = None if self.since is None else _since(self.since, newest)
        chosen = [record for record in records if self._fits(record, since_ms)]
        return chosen if self.limit is None else chosen[-self.limit :]

    def _fits(self, record: Any, since_ms: int | None) -> bool:
        level = getattr(record, "level", None)
        return (
            (self.level is None or level is None or LEVELS.index(level) >= LEVELS.index(self.level))
            and self.model in {None, record.model}
            and self.tenant in {None, getattr(record, "tenant", None)}
            and (self.key is None or record.key.startswith(self.key))
            and (since_ms is None or record.time_ms >= since_ms)
        )


_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


def _since(text: str, newest_ms: int) -> int:
    number, unit = text[:-1], text[-1:]
    if number.isdecimal() and unit in _UNITS_MS:
        return newest_ms - int(number) * _UNITS_MS[unit]
    from streams.places import parse_time  # noqa: PLC0415 - needed only here

    try:
        return parse_time(text, "--since")
    except Exception as error:
        raise click.BadParameter(
            "neither a time nor a duration; write 2026-01-05T08:00 or 12h", param_hint="--since"
        ) from error


def read_findings(run_dir: Path | None, kafka: str | None, settings_file: Path | None) -> Findings:
    """Read what was found, from a run's folder or the topics."""
    # Imported here: numpy, and for topics kafka-python, which --help need not wait for.
    from streams.findings import newest_run, read_run, read_topics  # noqa: PLC0415

    if kafka is None:
        return read_run(run_dir or newest_run(DEFAULT_RUNS))
    if run_dir is not None:
        raise click.UsageError("Give --run or --kafka, not both.")
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415
    from streams.settings import load_settings  # noqa: PLC0415

    settings = load_settings(settings_file, {**os.environ, "MODELWARDEN_KAFKA": kafka})
    bus = KafkaBus(settings.kafka, security=settings.kafka_security)
    try:
        return read_topics(bus, settings)
    finally:
        bus.close()


def read_key_states(found: Findings) -> KeyStates:
    """Read how keys stood at the end of a run; empty for topics, which hold findings only."""
    from streams.findings import KAFKA  # noqa: PLC0415 - see read_findings
    from streams.fleet import KeyStates, read_states  # noqa: PLC0415

    return KeyStates() if found.source.startswith(KAFKA) else read_states(Path(found.source))


def one_by_id(records: list[Any], name: str, given: str, source: str) -> Any:
    """Return the record whose id begins as given. Raises ModelwardenError."""
    from streams.errors import ModelwardenError  # noqa: PLC0415 - see read_findings

    matches = [record for record in records if getattr(record, name).startswith(given)]
    if len(matches) == 1:
        return matches[0]
    why = "nothing there has this id" if not matches else f"{len(matches)} begin with it"
    raise ModelwardenError(given, why, f"Take an id from the list (read from {source})")


def flatten(record: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a record by name, nested ones with a dot."""
    for name, value in record.items() if isinstance(record, dict) else msgspec.structs.asdict(record).items():
        if isinstance(value, dict | msgspec.Struct):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
