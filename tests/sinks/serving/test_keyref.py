"""Key references: stable, of the published form, and silent on the key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.batch import parse_key_reference
from sinks.serving.keyref import key_reference

PEPPER = bytes(range(32))


@given(st.binary(min_size=1, max_size=80), st.integers(0, 65_533))
def test_a_reference_parses_and_is_stable(api_key: bytes, epoch: int) -> None:
    reference = key_reference(api_key, PEPPER, epoch)
    assert parse_key_reference(reference)[0] == epoch
    assert reference == key_reference(api_key, PEPPER, epoch)


def test_a_reference_never_changes_between_versions() -> None:
    assert key_reference("sk-example", PEPPER, 0) == "k0-9da623a3470a3d0d8098a63238e764e3"


def test_key_secret_and_epoch_each_change_it() -> None:
    digests = {
        key_reference("a", PEPPER, 0)[-32:],
        key_reference("b", PEPPER, 0)[-32:],
        key_reference("a", PEPPER[::-1], 0)[-32:],
        key_reference("a", PEPPER, 1)[-32:],
    }
    assert len(digests) == 4
    assert key_reference("é", PEPPER) == key_reference("é".encode(), PEPPER)


@pytest.mark.parametrize(
    ("api_key", "pepper", "epoch", "said"),
    [
        ("sk-visible", b"short-pepper", 0, "at least 32 bytes, not 12"),
        ("sk-visible", PEPPER, 65_534, "0 to 65533"),
        ("sk-visible", PEPPER, -1, "0 to 65533"),
        ("", PEPPER, 0, "empty"),
    ],
)
def test_what_cannot_be_is_refused_without_repeating_it(
    api_key: str, pepper: bytes, epoch: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        key_reference(api_key, pepper, epoch)
    assert "visible" not in str(caught.value)
    assert "short-pepper" not in str(caught.value)
