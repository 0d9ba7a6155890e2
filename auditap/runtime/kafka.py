"""The settings of Kafka, for each client."""

from __future__ import annotations

from dataclasses import replace

from auditap.settings import EVENT_BYTES_MAX, KafkaSettings
from eventlog.kafka.client import KafkaConnection, client_security
from eventlog.kafka.publisher import KafkaPublisherSettings
from eventlog.kafka.source import KafkaSourceSettings
from eventlog.kafka.topics import TopicSettings


def connection_of(kafka: KafkaSettings) -> KafkaConnection:
    """Return how every client reaches Kafka. Raises StartupError where a login is missing or the TLS files cannot be used."""
    password = kafka.sasl_password
    security = client_security(
        protocol=kafka.security_protocol,
        sasl_mechanism=kafka.sasl_mechanism,
        sasl_username=kafka.sasl_username,
        sasl_password=None if password is None else password.get_secret_value(),
        ca_file=kafka.ca_file,
        certificate_file=kafka.certificate_file,
        key_file=kafka.key_file,
    )
    return KafkaConnection(kafka.bootstrap_servers, security)


def publisher_settings(kafka: KafkaSettings) -> KafkaPublisherSettings:
    """Return the settings of the collectors' publisher. Raises what `connection_of` raises."""
    return KafkaPublisherSettings(
        connection_of(kafka),
        kafka.topic,
        publish_deadline_ms=kafka.publish_deadline_ms,
        event_bytes_max=EVENT_BYTES_MAX,
    )


def dead_letter_topic_settings(kafka: KafkaSettings) -> KafkaPublisherSettings:
    """Return the settings of the publisher of dead letters. Raises what `connection_of` raises."""
    return replace(publisher_settings(kafka), topic=kafka.dead_letter_topic, client_id="auditap-dead-letters")


def source_settings(kafka: KafkaSettings) -> KafkaSourceSettings:
    """Return the settings of the ingestor's source. Raises what `connection_of` raises."""
    return KafkaSourceSettings(connection_of(kafka), kafka.topic, kafka.group)


def topic_settings(kafka: KafkaSettings) -> TopicSettings:
    """Return the settings of the topics. Raises what `connection_of` raises."""
    return TopicSettings(
        connection_of(kafka),
        kafka.topic,
        kafka.dead_letter_topic,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        min_insync_replicas=kafka.min_insync_replicas,
        retention_ms=kafka.retention_ms,
    )
