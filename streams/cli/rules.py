"""`modelwarden rules`: test, lint and compare the rules of a policy before they act."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streams.cli.output import examples, output_option, print_json, print_rows
from streams.cli.place import place_options, read_findings

if TYPE_CHECKING:
    from detectors.alert import Alert

EXIT_FAILED = 1
_PATH = click.Path(exists=True, path_type=Path)


@click.group(
    "rules",
    epilog=examples(
        "modelwarden rules test deploy/policies/default",
        "modelwarden rules lint deploy/policies/default",
        "modelwarden rules diff old new --run run/1",
    ),
)
def command() -> None:
    """Test the rules of a policy, find what is doubtful, and see what a change would do to customers."""


@command.command(
    "test",
    epilog=examples("modelwarden rules test my-policy", "modelwarden rules test -o json")
    + "\n\nExit codes: 0 all tests pass, 1 one fails.",
)
@click.argument("policy", type=_PATH, required=False)
@output_option
def test(policy: Path | None, output: str) -> None:
    """Run the tests beside each rule of POLICY, a folder or file; without it, of the default policy."""
    from sinks.policyfile import load_source  # noqa: PLC0415 - numpy, which --help need not wait for
    from sinks.ruletests import run_tests  # noqa: PLC0415

    outcomes = run_tests(load_source(policy))
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if output != "table":
        print_rows(outcomes, {}, output)
    else:
        rows = [{"result": "pass" if o.passed else "FAIL", "rule": o.rule, "kind": o.kind.replace("_", " "),
                 "test": o.test, "detail": o.detail} for o in outcomes]  # fmt: skip
        columns = {"result": "result", "rule": "rule", "kind": "kind", "test": "test", "detail": "decided"}
        print_rows(rows, columns, output)
        click.echo(f"\n{len(outcomes) - len(failed)} of {len(outcomes)} tests pass.")
    if failed:
        raise SystemExit(EXIT_FAILED)


@command.command(
    "lint",
    epilog=examples("modelwarden rules lint my-policy", "modelwarden rules lint -o ndjson")
    + "\n\nExit codes: 0 no errors (there may be warnings), 1 errors.",
)
@click.argument("policy", type=_PATH, required=False)
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@output_option
def lint(policy: Path | None, *, strict: bool, output: str) -> None:
    """Say what is wrong or doubtful with POLICY: missing tests, rules never reached, ended exceptions."""
    from sinks.policyfile import load_source  # noqa: PLC0415 - see test
    from sinks.ruletests import lint as find_doubts  # noqa: PLC0415
    from streams.clock import SystemClock  # noqa: PLC0415

    today = dt.datetime.fromtimestamp(SystemClock().now_ms() / 1000, dt.UTC).date()
    found = find_doubts(load_source(policy), today)
    if output != "table" or found:
        columns = {"severity": "severity", "rule": "rule", "path": "path", "what": "what"}
        print_rows(found, columns, output)
    else:
        click.echo("Nothing to say: the policy is sound.")
    if any(strict or finding.severity == "error" for finding in found):
        raise SystemExit(EXIT_FAILED)


@command.command(
    "diff",
    epilog=examples(
        "modelwarden rules diff deploy/policies/default my-policy --run run/1",
        "modelwarden rules diff old.yaml new.yaml --kafka 127.0.0.1:9092 -o json",
    ),
)
@click.argument("old", type=_PATH)
@click.argument("new", type=_PATH)
@place_options
def diff(  # noqa: PLR0913 - options
    *, old: Path, new: Path, run_dir: Path | None, kafka: str | None, settings_file: Path | None, output: str
) -> None:
    """Decide on past alerts under NEW and OLD as if both were enforced, and say which keys fare otherwise."""
    from sinks.policyfile import load_policy  # noqa: PLC0415 - see test
    from streams import whatif  # noqa: PLC0415
    from streams.cli.replayview import show_difference  # noqa: PLC0415 - rich is slow to import

    before, after = load_policy(old), load_policy(new)
    found = read_findings(run_dir, kafka, settings_file)
    counts: dict[tuple[str, str], int] = {}
    for alert in found.alerts:
        place = (alert.key, alert.model)
        counts[place] = max(counts.get(place, 0), alert.query_count)
    difference = whatif.compare(
        whatif.judge(found.alerts, before),
        whatif.judge(found.alerts, after),
        counts,
        span_ms=_span_ms(found.alerts),
        price=None,
        sources=(found.source,),
        complete=True,
        events=sum(counts.values()),
        against=before.policy_version,
    )
    if output == "table":
        show_difference(difference)
    elif output == "json":
        print_json(difference)
    else:
        print_rows(difference.keys, {}, output)


def _span_ms(alerts: tuple[Alert, ...]) -> int:
    times = [alert.time_ms for alert in alerts]
    return max(times) - min(times) if times else 0
