"""How clients reach the brokers: in the clear or over TLS, with a certificate or a password of their own.

Who calls it: everything that opens a connection to Kafka, here and in `streams`. `client_arguments` reads
files, once for each client; the keyword arguments that it returns are those of kafka-python and of aiokafka
alike. What is wrong with the files or with the brokers' certificate is told in one line.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path  # noqa: TC003 - msgspec reads the annotations at run time
from typing import Any, Literal

import msgspec

from sinks.errors import ModelwardenError

HANDSHAKE_TIMEOUT_S = 3.0


class KafkaSecurityError(ModelwardenError):
    """The brokers cannot be reached in the way that the settings want."""


class KafkaSecurity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the brokers are to be sure of us, and we of them."""

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """With `ssl` the brokers' certificate is checked; with `sasl` we give a user name and a password."""
    ca_file: Path | None = None
    """PEM file of who may have signed the brokers' certificate. None: the machine's authorities."""
    certificate_file: Path | None = None
    """PEM file of our own certificate, for brokers that want one."""
    key_file: Path | None = None
    """PEM file of the certificate's private key, without a passphrase. None: it is in `certificate_file`."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """PLAIN shows the password to whoever reads along, unless the protocol is `sasl_ssl`."""
    user: str | None = None
    """User name."""
    password_file: Path | None = None
    """File that holds the password and nothing else; a line feed at the end does not count."""

    @property
    def is_encrypted(self) -> bool:
        """Whether connections are made with TLS."""
        return self.protocol in {"ssl", "sasl_ssl"}

    def client_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of a client of kafka-python or aiokafka; none for plain text.

        Raises
        ------
        KafkaSecurityError
            If a setting is missing or too many, or a file cannot be used.
        """
        self._refuse_unused()
        if self.protocol == "plaintext":
            return {}
        arguments: dict[str, Any] = {"security_protocol": self.protocol.upper()}
        if self.is_encrypted:
            arguments["ssl_context"] = self._ssl_context()
        if self.protocol.startswith("sasl"):
            arguments["sasl_mechanism"] = self.sasl_mechanism
            arguments["sasl_plain_username"] = self.user
            arguments["sasl_plain_password"] = self._password()
        return arguments

    def explain(self, bootstrap: str) -> str | None:
        """Shake hands with the first broker, then log in; return what is wrong, or None if it is not that.

        For an error that a client raised already, which seldom tells. Blocks for a few seconds at most.
        """
        why = self._handshake(bootstrap) if self.is_encrypted else None
        if why is None and self.protocol.startswith("sasl") and not self._can_log_in(bootstrap):
            why = (
                f"authentication of user {self.user} by {self.sasl_mechanism} failed; correct `user`, "
                "`password_file` or `sasl_mechanism`"
            )
        return why

    def _can_log_in(self, bootstrap: str) -> bool:
        """Tell whether a client gets in; true if there is no broker to ask."""
        from kafka import KafkaAdminClient  # noqa: PLC0415 - slow to import, and needed for this only
        from kafka.errors import KafkaError  # noqa: PLC0415 - same

        first = bootstrap.split(",", maxsplit=1)[0]
        host, _, port = first.rpartition(":")
        try:
            socket.create_connection((host, int(port)), HANDSHAKE_TIMEOUT_S).close()
            # The client tries again until its time is over, whatever the broker says.
            timeout_ms = int(1000 * HANDSHAKE_TIMEOUT_S)
            arguments = {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
            KafkaAdminClient(bootstrap_servers=first, **arguments, **self.client_arguments()).close()
        except KafkaError:
            return False
        except OSError:
            return True
        return True

    def _handshake(self, bootstrap: str) -> str | None:
        host, _, port = bootstrap.split(",", maxsplit=1)[0].rpartition(":")
        try:
            with (
                socket.create_connection((host, int(port)), HANDSHAKE_TIMEOUT_S) as plain,
                self._ssl_context().wrap_socket(plain, server_hostname=host) as secured,
            ):
                # With TLS 1.3 the broker says no to our certificate only after the handshake.
                secured.settimeout(0.5)
                secured.recv(1)
        except ssl.SSLCertVerificationError as error:
            return f"the broker's certificate is not trusted ({error.verify_message}); correct `ca_file`"
        except ssl.SSLError as error:
            said = (error.reason or str(error)).lower().replace("_", " ")
            return f"no TLS with this broker ({said}); correct `protocol`, `certificate_file` and the port"
        except OSError:
            return None
        return None

    def _refuse_unused(self) -> None:
        """Refuse settings that would have no effect: whoever wrote them believes to be safe."""
        unused = [] if self.is_encrypted else ["ca_file", "certificate_file", "key_file"]
        if not self.protocol.startswith("sasl"):
            unused += ["user", "password_file"]
        for name in unused:
            if getattr(self, name) is not None:
                why = f"it has no effect with protocol {self.protocol}"
                raise KafkaSecurityError(f"kafka_security.{name}", why, "Set protocol, or remove it")
        if self.protocol.startswith("sasl"):
            for name in ("user", "password_file"):
                if getattr(self, name) is None:
                    why = f"protocol {self.protocol} needs it"
                    raise KafkaSecurityError(f"kafka_security.{name}", why, "Set it")
        if self.key_file is not None and self.certificate_file is None:
            why = "certificate_file is not set"
            raise KafkaSecurityError("kafka_security.key_file", why, "Set both, or neither")

    def _ssl_context(self) -> ssl.SSLContext:
        context: ssl.SSLContext = _read(
            "ca_file", self.ca_file, lambda: ssl.create_default_context(cafile=self.ca_file)
        )
        certificate = self.certificate_file
        if certificate is not None:
            _read(
                "certificate_file", certificate, lambda: context.load_cert_chain(certificate, self.key_file)
            )
        return context

    def _password(self) -> str:
        path = self.password_file
        assert path is not None  # noqa: S101 - _refuse_unused has seen to it
        password: str = _read("password_file", path, lambda: path.read_text(encoding="utf-8")).rstrip("\r\n")
        if not password:
            raise KafkaSecurityError(f"kafka_security.password_file {path}", "it is empty", "Put it in")
        return password


PLAINTEXT = KafkaSecurity()
"""As brokers are without any settings: for a laptop and a trusted network."""


def _read(field: str, path: Path | None, read: Any) -> Any:
    what = f"kafka_security.{field} {path}"
    try:
        return read()
    except ssl.SSLError as error:
        said = (error.reason or "no certificate in it").lower().replace("_", " ")
        why, do = f"it is no PEM file of the kind that is needed ({said})", "Give certificates, and their key"
    except UnicodeDecodeError:
        why, do = "it is no text", "Put the password in, and nothing else"
    except OSError as error:
        why, do = error.strerror or str(error), "Check the path, and who may read it"
    raise KafkaSecurityError(what, why, do) from None
