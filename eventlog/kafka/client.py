"""What publisher, source and topics share of aiokafka: the connection, its own log, its errors."""

from __future__ import annotations

import functools
import logging
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from schemas.errors import RetryableError, StartupError

METADATA_AGE_MS_MAX = 5_000
"""So soon every client notices partitions that are added, and a topic that is back. aiokafka's five minutes would be idle ones."""


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Where the brokers are, and how every client of them logs in."""

    bootstrap_servers: str
    """Comma-separated `host:port`."""
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """aiokafka's arguments for TLS and SASL: see `client_security`. Not in the `repr`, because it holds a password."""

    @property
    def hosts(self) -> Sequence[str]:
        """The addresses of the brokers that a client asks first."""
        return [server.strip() for server in self.bootstrap_servers.split(",")]

    def arguments(self) -> Mapping[str, Any]:
        """Return the connection as keyword arguments of aiokafka's clients."""
        return {"bootstrap_servers": self.bootstrap_servers, **self.security}


def client_security(
    *,
    protocol: str,
    sasl_mechanism: str,
    sasl_username: str | None,
    sasl_password: str | None,
    ca_file: Path | None,
    certificate_file: Path | None,
    key_file: Path | None,
) -> Mapping[str, Any]:
    """Return aiokafka's arguments for TLS and SASL: the `security` of every Kafka client, Faust's included.

    `protocol`: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`. The arguments of SASL and TLS count only where the
    protocol has them. Raises StartupError where a login is missing or a TLS file cannot be used.
    """
    security: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        security["ssl_context"] = _ssl_context(ca_file, certificate_file, key_file)
    if protocol.startswith("SASL"):
        if not sasl_username or not sasl_password:
            raise StartupError(
                "Set kafka.sasl_username and kafka.sasl_password, which this security_protocol needs."
            )
        security |= {
            "sasl_mechanism": sasl_mechanism,
            "sasl_plain_username": sasl_username,
            "sasl_plain_password": sasl_password,
        }
    return security


def _ssl_context(
    ca_file: Path | None, certificate_file: Path | None, key_file: Path | None
) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if certificate_file is not None:
            context.load_cert_chain(certificate_file, key_file)
    except OSError:
        given = {"ca_file": ca_file, "certificate_file": certificate_file, "key_file": key_file}
        for setting, path in given.items():
            if path is not None and not os.access(path, os.R_OK):
                raise StartupError(
                    f"kafka.{setting} names {path}, which cannot be read: correct it."
                ) from None
        raise StartupError(
            "Kafka's TLS files are no PEM files, or the key is of another certificate: correct "
            + " and ".join(f"kafka.{setting} ({path})" for setting, path in given.items() if path)
            + "."
        ) from None
    return context


def prepare_library() -> None:
    """Turn aiokafka's log off, and let its connections fail alike on every event loop. Every client does this first; more often is harmless.

    The log's debug lines hold whole requests, and while a broker is away it repeats its errors.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    for name in ("send", "_send_sasl_token"):
        send = getattr(AIOKafkaConnection, name)
        if not hasattr(send, "__wrapped__"):
            setattr(AIOKafkaConnection, name, _failing_alike(send))


def _failing_alike(send: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method that writes to a broker raise KafkaConnectionError where the connection has just been closed.

    There uvloop raises a bare RuntimeError, where asyncio's own loop raises nothing. aiokafka takes only an OSError for a
    lost connection: its tasks would end, and a client would not start (aiokafka's issue 1038).
    """

    @functools.wraps(send)
    def sent(connection: AIOKafkaConnection, *args: Any, **options: Any) -> Any:
        try:
            return send(connection, *args, **options)
        except KafkaError:
            raise
        except RuntimeError:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError from None

    return sent


def connection_error(error: BaseException, topic: str, group: str = "") -> StartupError | RetryableError:
    """Return what to raise for an error of aiokafka on connecting: StartupError where waiting cannot help."""
    if isinstance(error, UnknownTopicOrPartitionError):
        return StartupError(f"the topic {topic} does not exist: create it with `auditap topics`")
    if isinstance(error, TopicAuthorizationFailedError):
        return StartupError(f"Kafka forbids this user the topic {topic}")
    if isinstance(error, GroupAuthorizationFailedError):
        return StartupError(f"Kafka forbids this user the consumer group {group}")
    # aiokafka reports a wrong login or protocol as it reports brokers that are away: it could not bootstrap.
    return RetryableError("Kafka does not answer, or not with these security settings")
