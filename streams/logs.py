"""Logs to standard error: readable lines or JSON, with secrets taken out.

Who calls it: the command line and the worker, once, at the start; libraries that log through the standard
`logging` module (Faust, aiokafka) are rendered and redacted alike.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from streams.settings import LogSettings

REDACTED = "[redacted]"

_SECRET_NAMES = re.compile(
    r"(^|_|-)(api_?keys?|secrets?|passw(or)?ds?|token|credentials?|authorization|private_?keys?)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"""
    -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    | \b(?:sk|pk|rk|gsk|xai|hf|ghp|gho|glpat|xox[abprs]|AKIA|AIza)[-_]?[A-Za-z0-9_-]{16,}
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*
    | (?<=Bearer[ ])\S+ | (?<=Basic[ ])[A-Za-z0-9+/=]{8,}
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)
    | (?i:(?<=password=)|(?<=secret=)|(?<=token=)|(?<=api_key=)|(?<=apikey=))[^\s&,;]+
    """,
    re.VERBOSE | re.DOTALL,
)


def redact(value: Any, *, _depth: int = 0) -> Any:
    """Return the value with everything that looks like a secret replaced, at any depth up to 8."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if not isinstance(value, dict | list | tuple | set | frozenset):
        return _SECRET_TEXT.sub(REDACTED, str(value))
    if _depth == 8:
        return REDACTED
    if isinstance(value, dict):
        return {
            name: REDACTED if _SECRET_NAMES.search(str(name)) else redact(item, _depth=_depth + 1)
            for name, item in value.items()
        }
    return [redact(item, _depth=_depth + 1) for item in value]


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    kept = {name: event.pop(name) for name in ("_record", "_from_structlog") if name in event}
    event = redact(dict(event))
    event.update(kept)
    return event


def setup_logs(settings: LogSettings) -> None:
    """Send structlog's and the standard library's logs to standard error, redacted. May be called again."""
    first: Sequence[Any] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    )
    last = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=first,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *first,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
