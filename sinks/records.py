"""The records that cross a topic: serving event, decision, command, acknowledgement, feedback and the like.

An alert is defined where it is made, in `detectors.alert`. Every record is JSON, carries `schema`, refuses
unknown fields and is published as JSON Schema in `deploy/schemas` (`sinks.schemas`; CI checks drift and that
golden files of every released version still decode). Loaded by the serving side: imports nothing heavy.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_END = r"$(?!\n)"
"""End of text in every dialect; a bare `$` lets a last line feed through in Python's."""
_EPOCH = "0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
"""0 to 65535, without leading zeros."""

KeyReference = Annotated[
    str,
    Meta(
        pattern=rf"^k({_EPOCH})-[0-9a-f]{{32}}{_END}",
        description="HMAC of the API key; see sinks.serving.keyref",
    ),
]
Sketch = Annotated[
    str,
    Meta(pattern=rf"^[A-Za-z0-9+/]{{85}}[AQgw]=={_END}", description="32 little-endian float16, base64"),
]
NAME_FORM = rf"^[^\x00-\x1f\x7f]{{1,128}}{_END}"
Name = Annotated[str, Meta(pattern=NAME_FORM)]
Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0, le=2_147_483_647)]
Int63 = Annotated[int, Meta(ge=0, le=9_223_372_036_854_775_807)]
TimeMs = Annotated[int, Meta(ge=0, le=253_402_300_799_999, description="milliseconds since 1970")]
HexId = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{32}}{_END}")]
Sha256 = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{64}}{_END}")]

Action = Literal["watch", "throttle", "coarsen", "watermark", "challenge", "suspend", "revoke", "restore"]
Mode = Literal["observe", "canary", "enforce"]
OperatorVerb = Literal["approve", "reject", "undo", "open_appeal", "grant_appeal", "deny_appeal"]
AuditKind = Literal[
    "alert", "decision", "feedback", "acknowledgement", "operator_action", "policy", "allow", "notice"
]


class ServingEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One served call. Never the raw input, never the raw key.

    Names with dots are OpenTelemetry's `gen_ai.*` attributes where one exists.
    """

    schema: Literal[1] = 1
    time_ms: TimeMs
    key: KeyReference
    model: Name = msgspec.field(name="gen_ai.request.model")
    tenant: Name | None = None
    plan: Name | None = None
    input_sketch: Sketch | None = None
    embedding_sketch: Sketch | None = None
    predicted_class: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    top1: Ratio | None = None
    margin: Ratio | None = None
    entropy_nats: Annotated[float, Meta(ge=0.0, le=100.0)] | None = None
    prompt_tokens: Count | None = msgspec.field(default=None, name="gen_ai.usage.input_tokens")
    completion_tokens: Count | None = msgspec.field(default=None, name="gen_ai.usage.output_tokens")
    max_tokens: Count | None = msgspec.field(default=None, name="gen_ai.request.max_tokens")
    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] | None = msgspec.field(
        default=None, name="gen_ai.request.temperature"
    )
    choice_count: Count | None = msgspec.field(default=None, name="gen_ai.request.choice.count")
    top_logprobs: Count | None = None
    logit_bias_count: Count | None = None
    prefix_hash: Int63 | None = None


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed mitigation with an expiry. It exists only in mode enforce (or canary, for a key in it)."""

    schema: Literal[1] = 1
    command_id: HexId
    action: Action
    key: KeyReference
    model: Name | None = None
    """None: for every model of the key."""
    tenant: Name | None = None
    issued_ms: TimeMs
    expires_ms: TimeMs
    rule: Name
    policy_version: Name
    alert_id: HexId
    reason: str
    """The alert's sentence."""
    parameters: dict[str, float] = {}
    """Of the action: `requests_per_minute` for throttle; for coarsen at least one of `decimals`, `top_k` and
    `label_only` (0 or 1); for watermark `ratio` of the inputs, unless it is the default."""
    plan: Name | None = None
    """The key's plan, so that a serving layer can hold an allowlist by plan against the command."""
    approved_by: Name | None = None
    """Who let it leave, where a person had to."""
    sequence: Int63 = 0
    """Rises with every command for a key, whoever signs; an enforcer refuses a lower one."""
    signing_key_id: str = ""
    signature: str = ""
    """Ed25519 over the canonical bytes of everything else (`sinks.signing`), base64."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the policy made of an alert, in any mode; stands on the audit topic. Only `command` acts."""

    schema: Literal[1] = 1
    decision_id: HexId
    alert_id: HexId
    time_ms: TimeMs
    key: KeyReference
    model: Name | None = None
    """None: for every model of the key."""
    rule: Name
    policy_version: Name
    mode: Mode
    action: Action
    withheld: str | None = None
    """Why the action was not taken: the mode, an exception, an equal command still in force, a person who has
    yet to approve. None if it was."""
    command: Command | None = None
    """What left. A revocation that waits for a person may suspend the key meanwhile: `action` is revoke then,
    `withheld` says so, and the command is the suspension."""
    tenant: Name | None = None
    plan: Name | None = None
    step: Annotated[int, Meta(ge=0, le=100)] = 0
    """How far the rule had climbed: 0 for a first offence."""
    pending_until_ms: TimeMs | None = None
    """The action waits for a person's approval until then."""
    follows: HexId | None = None
    """The earlier decision that a person's word, or an allowlist, has settled by this one."""
    decided_by: Name | None = None
    """The person, where it was one."""


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A serving layer says what became of a command."""

    schema: Literal[1] = 1
    command_id: HexId
    key: KeyReference | None = None
    """The command's, which the acknowledgement is partitioned by."""
    enforcer: Name
    time_ms: TimeMs
    outcome: Literal["enforced", "refused", "expired", "lifted"]
    reason: str | None = None


class Feedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's word on a key: honest or guilty. Moves calibration and is remembered."""

    schema: Literal[1] = 1
    key: KeyReference
    model: Name | None = None
    verdict: Literal["honest", "guilty"]
    author: Name
    reason: str
    time_ms: TimeMs
    alert_id: HexId | None = None


class OperatorAction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person has decided about a key; signed, on the feedback topic, beside feedback.

    `approve` and `reject` settle a decision that waits. `undo` restores the key, lets the same finding pass
    and is remembered as feedback. `open_appeal` puts a customer's objection on record; `grant_appeal` is an
    undo, `deny_appeal` leaves things as they are.
    """

    schema: Literal[1] = 1
    action_id: HexId
    action: OperatorVerb
    key: KeyReference
    model: Name | None = None
    """None: for every model of the key."""
    decision_id: HexId
    """What it is about."""
    alert_id: HexId
    operator: Name
    reason: Annotated[str, Meta(min_length=1, max_length=1000)]
    time_ms: TimeMs
    signing_key_id: str = ""
    signature: str = ""
    """Ed25519 over the canonical bytes of everything else (`sinks.signing`), base64."""


class Allow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys that no command touches, signed, on the compacted `allowlist` topic under `allow_id`.

    A call or command is covered if every list that is not empty holds it. The policy engine holds it against
    decisions, serving layers against commands. `sinks.allowlist` keeps the table.
    """

    schema: Literal[1] = 1
    allow_id: HexId
    keys: tuple[KeyReference, ...] = ()
    tenants: tuple[Name, ...] = ()
    plans: tuple[Name, ...] = ()
    models: tuple[Name, ...] = ()
    purpose: Name
    """What the keys are used for: `evaluation`, `load test`, a contract's name."""
    owner: Name
    reason: Annotated[str, Meta(min_length=1, max_length=1000)]
    issued_ms: TimeMs
    expires_ms: TimeMs
    withdrawn: bool = False
    """Taken back: covers nothing from here on."""
    sequence: Int63
    """Rises with every record of the allowlist; a reader refuses a lower one."""
    signing_key_id: str = ""
    signature: str = ""
    """Ed25519 over the canonical bytes of everything else (`sinks.signing`), base64."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One link of a partition's audit chain; `sinks.audit` makes and verifies it."""

    schema: Literal[1] = 1
    partition: Count
    sequence: Int63
    """0, 1, 2 and so on in each partition."""
    previous: Sha256
    """Hash of the entry before; zeros for the first."""
    time_ms: TimeMs
    kind: AuditKind
    record: msgspec.Raw
    """The record itself, byte for byte as it was hashed."""
    hash: Sha256
    """SHA-256 of everything else."""


class Notice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something an operator must see: it stands in the audit chain and raises a metric that pages."""

    schema: Literal[1] = 1
    notice_id: HexId
    time_ms: TimeMs
    kind: Literal["breaker_tripped", "breaker_closed", "approval_waiting", "appeal_opened"]
    severity: Literal["page", "ticket", "info"]
    partition: Count
    sentence: str
    cause: Literal["keys", "tenants", "traffic_share"] | None = None
    """Of a breaker that tripped: the limit."""
    decision_id: HexId | None = None


Reason = Literal[
    "empty",
    "too_large",
    "not_json",
    "unknown_schema",
    "unknown_field",
    "missing_field",
    "wrong_value",
    "key_reference",
    "sketch",
    "not_finite",
    "time_ahead",
    "time_absurd",
    "unknown_format",
    "malformed",
    "damaged_batch",
    "signature",
]
"""Why a message was refused; a metric's label, so the list is short and closed."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message that could not be decoded: where it stands and why, never what it held.

    It may be a raw key or a raw input sent by mistake; the source topic still holds it, under that topic's
    own access rules and retention, and `sha256` proves that what is found there is what was refused.
    """

    schema: Literal[1] = 1
    reason: Reason
    detail: str
    """Path to the field and the form expected there."""
    topic: Name
    partition: Count
    offset: Int63
    row: Count | None = None
    """Which event of a micro-batch; None where the whole message was refused."""
    time_ms: TimeMs
    """Time the message was given to the topic; 0 if unknown."""
    size_bytes: Count
    sha256: Sha256
    """Of the message's value."""
