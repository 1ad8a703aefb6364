"""Settings: file, environment, and errors that name the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.errors import FileFormatError, SettingsError
from streams.settings import Settings, load_settings


def write(folder: Path, text: str, name: str = "modelwarden.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_loopback_observe_and_metrics_off() -> None:
    settings = load_settings(None, {})
    assert settings == Settings()
    assert settings.kafka == "127.0.0.1:9092"
    assert settings.policy_mode is None
    assert not settings.metrics.enabled
    assert settings.topic("events") == "modelwarden.events"


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    yaml = write(tmp_path, "consumer_group: mine\nengine: {hot_keys: 7}\npolicy_file: a/b.yaml\n")
    toml = write(
        tmp_path, 'consumer_group = "mine"\npolicy_file = "a/b.yaml"\n[engine]\nhot_keys = 7\n', "m.toml"
    )
    assert load_settings(yaml, {}) == load_settings(toml, {})
    assert load_settings(yaml, {}).policy_file == Path("a/b.yaml")


def test_environment_overrides_the_file_by_field_and_section(tmp_path: Path) -> None:
    path = write(tmp_path, "kafka: one:1\nengine: {hot_keys: 7}\nconsumer_group: kept\n")
    environ = {
        "MODELWARDEN_KAFKA": "two:2,three:3",
        "MODELWARDEN_ENGINE__HOT_KEYS": "12",
        "MODELWARDEN_METRICS__ENABLED": "true",
        "MODELWARDEN_POLICY_FILE": "p.yaml",
        "MODELWARDEN_SETTINGS": "read elsewhere",
        "HOME": "/nowhere",
    }
    settings = load_settings(path, environ)
    assert settings.kafka == "two:2,three:3"
    assert settings.engine.hot_keys == 12
    assert settings.metrics.enabled
    assert settings.policy_file == Path("p.yaml")
    assert settings.consumer_group == "kept"


def test_an_instance_id_is_a_name_that_kafka_takes() -> None:
    assert load_settings(None, {}).consumer_instance_id is None
    environ = {"MODELWARDEN_CONSUMER_INSTANCE_ID": "modelwarden-0"}
    assert load_settings(None, environ).consumer_instance_id == "modelwarden-0"
    with pytest.raises(SettingsError, match="MODELWARDEN_CONSUMER_INSTANCE_ID"):
        load_settings(None, {"MODELWARDEN_CONSUMER_INSTANCE_ID": "a b"})


def test_service_links_of_kubernetes_are_no_misspellings() -> None:
    environ = {
        "MODELWARDEN_SERVICE_HOST": "10.0.0.1",
        "MODELWARDEN_SERVICE_PORT_METRICS": "9464",
        "MODELWARDEN_PORT": "tcp://10.0.0.1:9464",
        "MODELWARDEN_PORT_9464_TCP_ADDR": "10.0.0.1",
    }
    assert load_settings(None, environ) == Settings()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("dead_letters: {max_shar: 0.1}", "$.dead_letters.max_shar: no such field, perhaps `max_share`"),
        ("kafkaa: x:1", "$.kafkaa: no such field, perhaps `kafka`"),
        ("engine: {hot_keys: many}", "$.engine.hot_keys: expected"),
        ("engine: {hot_keys: '7'}", "$.engine.hot_keys: expected"),
        ("kafka: no-port", "$.kafka: expected"),
        ("max_ahead_s: .nan", "$.max_ahead_s: expected"),
        ("policy_file: [a]", "$.policy_file: expected"),
        ("- a list", "$: expected `object`"),
    ],
)
def test_a_wrong_field_in_the_file_is_refused_by_path(tmp_path: Path, text: str, path: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(write(tmp_path, text), {})
    message = str(caught.value)
    assert path in message
    assert "modelwarden.yaml" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MODELWARDEN_KAFKAA", "x:1", "Did you mean MODELWARDEN_KAFKA."),
        ("MODELWARDEN_ENGINE__HOTKEYS", "1", "Did you mean MODELWARDEN_ENGINE__HOT_KEYS."),
        ("MODELWARDEN_KAFKA__HOST", "1", "there is no such setting"),
        ("MODELWARDEN_LOG", "json", "Set MODELWARDEN_LOG__FORMAT"),
        ("MODELWARDEN_METRICS__PORT", "99999", "expected `int` <= 65535"),
        ("MODELWARDEN_METRICS__ENABLED", "perhaps", "expected `bool`"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {name: value})
    assert name in str(caught.value)
    assert said in str(caught.value)
    assert value not in str(caught.value) or len(value) < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka: a:1\nkafka: b:2\n", "given twice (line 2)"),
        ("engine: {hot_keys: 1, hot_keys: 2}", "given twice (line 1)"),
        ("kafka: [", "line 1"),
    ],
)
def test_a_broken_file_is_refused_by_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        load_settings(write(tmp_path, text), {})
    assert said in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"cannot read .*absent\.yaml: No such file"):
        load_settings(tmp_path / "absent.yaml", {})
