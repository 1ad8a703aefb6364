"""Settings: one YAML or TOML file, overridden by the environment, checked strictly.

Who calls it: the command line and the worker, once, at the start. Nothing else reads the environment.
Precedence: `MODELWARDEN_<FIELD>` or `MODELWARDEN_<SECTION>__<FIELD>`, then the file, then the defaults.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from detectors.engine import EngineSettings
from sinks.kafkasecurity import KafkaSecurity
from sinks.records import Mode  # noqa: TC001 - msgspec reads the annotations at run time
from sinks.yamlfile import explain_form, read_config
from streams.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "MODELWARDEN_"

OTHER_VARIABLES = frozenset({"MODELWARDEN_SETTINGS", "MODELWARDEN_GRAFANA_URL", "MODELWARDEN_GRAFANA_TOKEN"})
"""Variables with our prefix that are no settings: the settings file's path, and what commands take."""

_KUBERNETES_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")
"""What Kubernetes puts into every pod for a Service named `modelwarden*`; not ours, so not a misspelling."""

Positive = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=1, le=65_535)]


class DeadLetterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much undecodable input is bearable before the worker stops."""

    max_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Largest share of rejected messages over the last `window_events` messages."""
    window_events: Annotated[int, Meta(ge=1)] = 10_000
    """How far back `max_share` looks."""
    max_consecutive: Annotated[int, Meta(ge=1)] = 5_000
    """Largest number of rejected messages in a row."""


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where logs go is standard error, always."""

    format: Literal["console", "json"] = "console"
    """For people, or one JSON object a line."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines below this level are left out."""


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Prometheus endpoint."""

    enabled: bool = False
    """Whether to answer scrapes and health probes."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every one, as in a container."""
    port: Port = 9464
    """Each worker of a machine needs its own."""
    flagged_keys: Annotated[int, Meta(ge=1, le=400)] = 100
    """Flagged keys that have series, per worker: divide what Prometheus can bear by the workers."""
    flagged_for_s: Positive = 21_600.0
    """How long a key stays flagged after its newest alert."""


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the health endpoints, beside the metrics, say no."""

    stuck_s: Positive = 30.0
    """Not live if the event loop has not turned for so long."""
    lag_records: Annotated[int, Meta(ge=0)] = 1_000_000
    """Not ready while more records than this wait, over the partitions here."""


class TracingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenTelemetry traces; needs the extra `otel`."""

    endpoint: str | None = None
    """Where spans go by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces. None: nowhere."""
    every_chunk: bool = False
    """Trace every chunk of events, not only those in which something was found."""


class WatchdogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a worker ends itself (exit code 75), for its supervisor to start it again."""

    stalled_s: Annotated[float, Meta(ge=0)] = 180.0
    """For so long no record was processed though there are more to read, or the group has been rebalancing.
    0: never."""
    loop_stuck_s: Annotated[float, Meta(ge=0)] = 60.0
    """For so long the process did nothing else than one thing. 0: never."""
    memory_limit_bytes: Annotated[int, Meta(ge=1)] | None = None
    """Above so much resident memory it makes a last snapshot and ends. None: nine tenths of the container's
    limit; outside of a container, never."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator may set. File names are taken from the working directory."""

    kafka: Annotated[str, Meta(pattern=r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$")] = "127.0.0.1:9092"
    """Bootstrap servers, `host:port`, several separated by commas."""
    kafka_security: KafkaSecurity = KafkaSecurity()
    topic_prefix: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{0,128}$")] = "modelwarden."
    """Stands before the name of every topic."""
    consumer_group: Annotated[str, Meta(min_length=1, max_length=128)] = "modelwarden"
    """Workers of one group share the partitions of the events topic."""
    consumer_instance_id: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")] | None = None
    """A name that this worker keeps over restarts and no other worker has, such as its pod's (Kafka's static
    membership). A worker that starts again under its name within 30 s gets its partitions back at once; one
    that stays away keeps them from the others for so long. None: for 6 s after a kill, not at all after a
    stop."""
    policy_file: Path | None = None
    """None: the default policy that comes with the program."""
    policy_mode: Mode | None = None
    """Overrides the policy file's own mode."""
    signing_key_file: Path | None = None
    """Ed25519 private key, made by `modelwarden policy keygen`; needed by modes canary and enforce."""
    trusted_keys_file: Path | None = None
    """Public keys whose signatures on policies, allowlist and people's decisions are obeyed
    (`modelwarden policy trust`). None: the worker's own key, if it has one."""
    references_path: Path | None = None
    """References by model: a file or a folder of them (`modelwarden references merge` makes one). None: every
    model learns from its own traffic."""
    engine: EngineSettings = EngineSettings()
    snapshot_interval_s: Positive | None = None
    """So often the state is stored; after a crash, at most so much is read again. None: 10, or 30 while the
    worker's state takes more than 256 MB."""
    max_message_bytes: Annotated[int, Meta(ge=1024)] = 1_048_576
    """A larger message is dead-lettered undecoded."""
    max_ahead_s: Positive = 3600.0
    """An event whose time is further ahead of the clock than this is dead-lettered."""
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    health: HealthSettings = HealthSettings()
    tracing: TracingSettings = TracingSettings()

    def topic(self, name: str) -> str:
        """Return a topic's full name: `events` becomes `modelwarden.events`."""
        return f"{self.topic_prefix}{name}"


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the settings from a file (or none) and the environment.

    Raises
    ------
    SettingsError
        If a field is unknown, of the wrong type or out of range; the message names its path.
    FileFormatError
        If the file cannot be read or parsed.
    """
    tree: Any = {} if path is None else read_config(path)
    if path is not None:
        _convert(tree, Settings, f"settings file {path}", strict=True)
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in OTHER_VARIABLES:
            _overlay(tree, name, environ[name])
    settings: Settings = _convert(tree, Settings, "settings", strict=True)
    return settings


def _overlay(tree: dict[str, Any], name: str, text: str) -> None:
    """Put one variable's value, read as the type of its field, into the tree."""
    *sections, leaf = name.removeprefix(PREFIX).lower().split("__")
    field_type: Any = Settings
    for part in (*sections, leaf):
        field_type = _fields(field_type).get(part)
    if field_type is None:
        if _KUBERNETES_LINK.search(name):
            return
        raise _unknown_variable(name)
    if _fields(field_type):
        example = f"{name}__{next(iter(_fields(field_type))).upper()}"
        raise SettingsError(f"variable {name}", "it is a section, not a value", f"Set {example} or the like")
    for section in sections:
        tree = tree.setdefault(section, {})
    value = _convert(text, field_type, f"variable {name}", strict=False)
    tree[leaf] = str(value) if isinstance(value, Path) else value


def _fields(struct: Any) -> dict[str, Any]:
    """Return the types of a struct's fields by name; nothing for other types."""
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        return {}
    return {field.encode_name: field.type for field in msgspec.structs.fields(struct)}


def _unknown_variable(name: str) -> SettingsError:
    known = [
        PREFIX + "__".join(part for part in (outer, inner) if part).upper()
        for outer, outer_type in _fields(Settings).items()
        for inner in _fields(outer_type) or [""]
    ]
    near = get_close_matches(name, known, n=1)
    do = f"Did you mean {near[0]}" if near else "Remove it, or correct its name"
    return SettingsError(f"variable {name}", "there is no such setting", do)


def _convert(value: Any, wanted: Any, source: str, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, wanted, strict=strict, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        known = [name for outer, inner in _fields(Settings).items() for name in (outer, *_fields(inner))]
        raise SettingsError(source, explain_form(error, known), "Correct or remove that field") from error


def _decode_path(wanted: type, value: Any) -> Any:
    if wanted is not Path or not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return Path(value)
