"""Kafka as the settings describe it, for each role."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from auditap.settings import EVENT_BYTES_MAX, KafkaSettings
from ingestor.kafka_source import KafkaSourceSettings
from redactor.publisher import KafkaSettings as KafkaPublisherSettings
from redactor.topics import TopicSettings
from schemas.errors import StartupError


def publisher_settings(kafka: KafkaSettings) -> KafkaPublisherSettings:
    """Return the publisher's part. Raises StartupError where the TLS files cannot be used."""
    return KafkaPublisherSettings(
        bootstrap_servers=kafka.bootstrap_servers,
        topic=kafka.topic,
        publish_deadline_ms=kafka.publish_deadline_ms,
        event_bytes_max=EVENT_BYTES_MAX,
        security=_security(kafka),
    )


def letter_settings(kafka: KafkaSettings) -> KafkaPublisherSettings:
    """Return the part of who publishes dead letters. Raises StartupError where the TLS files cannot be used."""
    return replace(publisher_settings(kafka), topic=kafka.dead_letter_topic, client_id="auditap-dead-letters")


def source_settings(kafka: KafkaSettings) -> KafkaSourceSettings:
    """Return the ingestor's part. Raises StartupError where the TLS files cannot be used."""
    return KafkaSourceSettings(
        bootstrap_servers=kafka.bootstrap_servers,
        topic=kafka.topic,
        group=kafka.group,
        security=_security(kafka),
    )


def security_of(kafka: KafkaSettings) -> Mapping[str, Any]:
    """Return how to log in, in the client library's names. Raises StartupError where the TLS files cannot be used."""
    return _security(kafka)


def topic_settings(kafka: KafkaSettings) -> TopicSettings:
    """Return what the topics are to be. Raises StartupError where the TLS files cannot be used."""
    return TopicSettings(
        bootstrap_servers=kafka.bootstrap_servers,
        events_topic=kafka.topic,
        dead_letters_topic=kafka.dead_letter_topic,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        min_insync_replicas=kafka.min_insync_replicas,
        retention_ms=kafka.retention_ms,
        security=_security(kafka),
    )


def _security(kafka: KafkaSettings) -> Mapping[str, Any]:
    security: dict[str, Any] = {"security_protocol": kafka.security_protocol}
    if kafka.security_protocol.endswith("SSL"):
        security["ssl_context"] = _ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        if kafka.sasl_username is None or kafka.sasl_password is None:
            raise StartupError(
                "Set kafka.sasl_username and kafka.sasl_password, which this security_protocol needs."
            )
        security |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.sasl_password.get_secret_value(),
        }
    return security


def _ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=kafka.ca_file)
        if kafka.certificate_file is not None:
            context.load_cert_chain(kafka.certificate_file, kafka.key_file)
    except OSError:
        raise StartupError(
            "Kafka's TLS files cannot be read: correct kafka.ca_file, certificate_file, key_file."
        ) from None
    return context
