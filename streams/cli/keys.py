"""`modelwarden keys`: the keys that something was found about, or all keys of a run, most suspect first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streams.cli.output import examples, print_rows
from streams.cli.place import Wanted, filter_options, place_options, read_findings, read_key_states

if TYPE_CHECKING:
    from pathlib import Path

    from streams.standing import KeyStanding

_COLUMNS = {
    "level": "level",
    "key": "key",
    "model": "model",
    "customer": "customer",
    "query_count": "queries",
    "rarity": "honest keys",
    "held": "holds",
    "in_force": "in force",
}


@click.group(
    "keys",
    epilog=examples(
        "modelwarden keys list",
        "modelwarden keys list --all --limit 20 --run run/1",
        "modelwarden keys list --kafka 127.0.0.1:9092 --level critical -o ndjson | jq -r .key",
    ),
)
def command() -> None:
    """List keys, most suspect first. One key: `modelwarden key show REF`."""


@command.command(
    "list", epilog=examples("modelwarden keys list", "modelwarden keys list --all --run run/1 -o json")
)
@click.option("--all", "show_all", is_flag=True, help="Also keys without an alert (of a run's folder).")
@filter_options
@place_options
def list_keys(
    *,
    show_all: bool,
    run_dir: Path | None,
    kafka: str | None,
    settings_file: Path | None,
    output: str,
    **wanted: Any,
) -> None:
    """List keys with where they stand: level, rarity among honest keys, what they hold, what is in force."""
    if show_all and kafka is not None:
        raise click.UsageError("--all goes with --run: the topics tell only of keys with an alert.")
    # Imported here: numpy, which --help need not wait for.
    from streams.standing import key_standings  # noqa: PLC0415

    found = read_findings(run_dir, kafka, settings_file)
    standings = key_standings(found, read_key_states(found).keys if show_all else ())
    chosen = Wanted(**wanted).choose(standings[::-1])[::-1]  # `--limit` keeps the last, here the most suspect
    print_rows(chosen if output != "table" else map(_row, chosen), _COLUMNS, output, right=("query_count",))


def _row(key: KeyStanding) -> dict[str, object]:
    from streams.keyview import share  # noqa: PLC0415 - rich is slow to import

    return {
        "level": key.level,
        "key": key.key,
        "model": key.model,
        "customer": ", ".join(filter(None, (key.tenant, key.plan))) or None,
        "query_count": key.query_count,
        "rarity": share(key.key_p_value),
        "held": f"{100 * key.held_ratio:.0f} %",
        "in_force": key.in_force,
    }
