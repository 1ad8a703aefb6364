"""`modelwarden report`: a run's folder as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from streams.cli.output import examples, output_option, print_json

DEFAULT_RUNS = Path("run")


@click.command(
    "report",
    epilog=examples(
        "modelwarden report",
        "modelwarden report run/1 --html report.html",
        "modelwarden report run/1 --html - > report.html",
    ),
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option(
    "--html",
    "page_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it; - for standard output.  [default: report.html in the run's folder]",
)
@output_option
def command(folder: Path | None, page_file: Path | None, output: str) -> None:
    """Write what a run found as one HTML page that opens anywhere, offline.

    FOLDER is a run of `modelwarden demo`, or what `modelwarden replay --alerts-to` wrote; without it, the
    newest in ./run.
    """
    # Imported here: detection brings numba, which --help need not wait for.
    from streams.findings import newest_run  # noqa: PLC0415
    from streams.html.run import folder_page  # noqa: PLC0415

    folder = folder or newest_run(DEFAULT_RUNS)
    page = folder_page(folder)
    if str(page_file) == "-":
        click.echo(page, nl=False)
        return
    path = page_file or folder / "report.html"
    write_page(path, page)
    if output != "table":
        print_json({"page": str(path), "size_bytes": len(page)})
    else:
        click.echo(f"{path} ({len(page) / 1024:,.0f} KiB)")


def write_page(path: Path, page: bytes) -> None:
    """Write a page, with the folders above it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(page)
