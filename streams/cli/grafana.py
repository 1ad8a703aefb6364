"""`modelwarden grafana`: dashboards, alert rules and contact points on a server; silences."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sinks.errors import ModelwardenError
from streams.cli.output import examples, output_option, print_json, print_rows
from streams.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sinks.grafana.client import GrafanaClient
    from sinks.grafana.desired import Item
    from sinks.grafana.silences import Matcher

    Function = Callable[..., Any]

_COLUMNS = {"kind": "KIND", "name": "NAME", "action": "ACTION", "difference": "DIFFERENCE"}
_MARGIN_S = 900
"""A load test may end late; its silence a little later still."""


def _server(function: Function) -> Function:
    for option in (
        click.option(
            "--url", envvar="MODELWARDEN_GRAFANA_URL", show_envvar=True, help="https://grafana.example.com"
        ),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="File with the token.  [default: the variable MODELWARDEN_GRAFANA_TOKEN]",
        ),
    ):
        function = option(function)
    return function


def _config(function: Function) -> Function:
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Who is told, and where.  [default: what comes with the program]",
    )(function)


@click.group(
    "grafana",
    epilog=examples(
        "modelwarden grafana plan",
        "modelwarden grafana apply --config oncall.yaml",
        "modelwarden grafana silence --load-test --minutes 90 --by ana --comment LT-12",
    ),
)
def command() -> None:
    """Put dashboards, alert rules and contact points on a Grafana server, and silence alerts.

    Needs MODELWARDEN_GRAFANA_URL, and in MODELWARDEN_GRAFANA_TOKEN the token of a service account with the
    role Editor.
    """


@command.command(epilog=examples("modelwarden grafana plan", "modelwarden grafana plan -o json"))
@_server
@_config
@output_option
def plan(url: str | None, token_file: Path | None, config: Path | None, output: str) -> None:
    """Say what apply would make or change; write nothing."""
    from sinks.grafana.plan import make_plan  # noqa: PLC0415 - requests takes a while to import

    with connect(url, token_file) as client:
        print_rows(make_plan(client, _items(config)), _COLUMNS, output)


@command.command(
    epilog=examples("modelwarden grafana apply", "modelwarden grafana apply --config oncall.yaml")
)
@_server
@_config
@output_option
def apply(url: str | None, token_file: Path | None, config: Path | None, output: str) -> None:
    """Make or change what is not as it should be, and read it back. Doing it again changes nothing."""
    from sinks.grafana.plan import apply_plan  # noqa: PLC0415 - same

    with connect(url, token_file) as client:
        print_rows(apply_plan(client, _items(config)), _COLUMNS, output)


@command.command(epilog=examples("modelwarden grafana verify", "modelwarden grafana verify -o ndjson"))
@_server
@_config
@output_option
def verify(url: str | None, token_file: Path | None, config: Path | None, output: str) -> None:
    """Compare the server with what should stand there; exit code 1 if anything differs."""
    from sinks.grafana.plan import make_plan  # noqa: PLC0415 - same

    with connect(url, token_file) as client:
        steps = list(make_plan(client, _items(config)))
    print_rows(steps, _COLUMNS, output)
    if any(step.action != "none" for step in steps):
        raise SystemExit(1)


@command.command(
    epilog=examples(
        "modelwarden grafana silence --load-test --minutes 90 --by ana --comment LT-12",
        "modelwarden grafana silence alertname=ModelwardenDeadLetters --minutes 30 --by ana --comment LT-13",
    )
)
@click.argument("matchers", nargs=-1)
@click.option("--load-test", is_flag=True, help="Silence what a load test with keys k65534-... sets off.")
@click.option("--minutes", type=click.IntRange(1, 24 * 60), required=True)
@click.option("--by", required=True, help="Who wants it.")
@click.option("--comment", required=True, help="Why.")
@click.option("--alertmanager", help="Silence this Alertmanager too, http://host:9093.")
@_server
@output_option
def silence(  # noqa: PLR0913 - one parameter per option
    *,
    matchers: tuple[str, ...],
    load_test: bool,
    minutes: int,
    by: str,
    comment: str,
    alertmanager: str | None,
    url: str | None,
    token_file: Path | None,
    output: str,
) -> None:
    """Silence the alerts that fulfil all MATCHERS, such as alertname=ModelwardenDeadLetters.

    Some alerts cannot be silenced: theft, the canary, the breaker, the audit chain. A load test gets a
    quarter of an hour more than it asks for. The time is marked on the dashboards.
    """
    from sinks.grafana import silences  # noqa: PLC0415 - same
    from sinks.grafana.alerting import alert_labels  # noqa: PLC0415 - same

    if load_test == bool(matchers):
        raise click.UsageError("give matchers, or --load-test")
    wanted: tuple[tuple[Matcher, ...], ...] = (
        silences.LOAD_TEST if load_test else (tuple(map(silences.parse_matcher, matchers)),)
    )
    for one in wanted:
        silences.check_silence(one, alert_labels())
    now_ms = SystemClock().now_ms()
    end_ms = now_ms + 1000 * (60 * minutes + (_MARGIN_S if load_test else 0))
    bodies = [
        silences.silence_body(one, starts_at=_time(now_ms), ends_at=_time(end_ms), by=by, comment=comment)
        for one in wanted
    ]
    with connect(url, token_file) as client:
        made = [{"id": silences.post_silence(client, body), **body} for body in bodies]
        silences.mark_window(client, now_ms, end_ms, comment)
    for body in bodies if alertmanager else ():
        silences.post_to_alertmanager(str(alertmanager), body)
    if output != "table":
        print_json(made)
        return
    for body in made:
        click.echo(f"Silenced until {body['endsAt']}: {body['id']}")


@contextmanager
def connect(url: str | None, token_file: Path | None) -> Iterator[GrafanaClient]:
    """Connect to the server of the options and the environment; raise ModelwardenError without one."""
    from sinks.grafana.client import GrafanaClient  # noqa: PLC0415 - same

    if not url:
        raise ModelwardenError("Grafana", "no server is given", "Set MODELWARDEN_GRAFANA_URL, or use --url")
    token = token_file.read_text().strip() if token_file else os.environ.get("MODELWARDEN_GRAFANA_TOKEN", "")
    if not token:
        do = "Set MODELWARDEN_GRAFANA_TOKEN, or use --token-file"
        raise ModelwardenError("Grafana", "no token is given", do)
    client = GrafanaClient(url, token)
    try:
        yield client
    finally:
        client.close()


def _items(config: Path | None) -> list[Item]:
    from sinks.grafana.config import load_config  # noqa: PLC0415 - same
    from sinks.grafana.desired import desired_items  # noqa: PLC0415 - same

    return desired_items(load_config(config, os.environ))


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
