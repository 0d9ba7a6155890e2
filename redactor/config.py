"""What an operator tells the redactor, beside the OpenAPI documents themselves. Immutable; checked when built."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from schemas.errors import StartupError

ContainerMarks = Literal["presence", "inherit"]

_DEPTH_CEILING = 128  # a body is walked by recursion, so no setting may reach the interpreter's limit


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is read and on what is written."""

    body_bytes_max: int = 1_048_576
    """A body above this is dropped as `too_large`."""
    depth_max: int = 64
    """A body nested deeper than this is dropped as `too_deep`."""
    free_form_bytes_max: int = 65_536
    """A free-form object whose JSON text is longer keeps its presence only (rule 4)."""
    free_form_depth_max: int = 16
    """The same for its depth; the object itself counts as one."""
    uri_bytes_max: int = 16_384
    """The recorded path and query; what does not fit is left out, parameter by parameter."""
    form_fields_max: int = 1_000
    """A form with more fields is dropped as `too_large`."""
    lines_max: int = 10_000
    """The same for a body of more lines of JSON."""
    capture_bytes_max: int = 8_388_608
    """One line of captures."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise StartupError(f"The redactor's limit {name} must be at least 1.")
        if self.depth_max > _DEPTH_CEILING:
            raise StartupError(f"The redactor's limit depth_max must be at most {_DEPTH_CEILING}.")


@dataclass(frozen=True, slots=True)
class HeaderNames:
    """The headers that may be read, in lower case (rule 14). An empty name or tuple reads none.

    Those of actor and account are read from the response alone: a client could forge them on its request.
    """

    actor_id: str = "x-actor-id"
    actor_email: str = "x-actor-email"
    actor_type: str = "x-actor-type"
    actor_context: str = "x-actor-context"
    actor_token_id: str = "x-actor-token-id"  # noqa: S105  a header's name
    actor_token_name: str = "x-actor-token-name"  # noqa: S105  a header's name
    account_id: str = "x-account-id"
    user_agent: str = "user-agent"
    request_ids: tuple[str, ...] = ("cf-ray", "x-request-id")
    """The first that stands exactly once counts, on the request before the response."""

    def __post_init__(self) -> None:
        singles = [getattr(self, name) for name in self.__slots__ if name != "request_ids"]
        for name in (*singles, *self.request_ids):
            if name != name.lower():
                raise StartupError("The redactor's header names must be written in lower case.")


@dataclass(frozen=True, slots=True)
class DocumentConfig:
    """One OpenAPI document, JSON or YAML."""

    path: Path
    envelope: str | None = None
    """The property of a response's root that is recorded in its place (rule 12)."""
    container_marks: ContainerMarks = "presence"
    """Whether a mark on a container reaches its children (rule 3)."""
    hosts: tuple[str, ...] = ()
    """The hosts that it serves. Empty: those of its servers, or any host where it is the only document."""


@dataclass(frozen=True, slots=True)
class RedactionConfig:
    """Everything the redactor decides by, beside the documents' own marks."""

    documents: tuple[DocumentConfig, ...] = ()
    headers: HeaderNames = field(default_factory=HeaderNames)
    limits: Limits = field(default_factory=Limits)
    path_parameters_kept: frozenset[str] = frozenset()
    """Names of path parameters recorded as their value, marked or not; a denial still wins (rule 13)."""
    get_responses_kept: frozenset[str] = frozenset()
    """Operation ids whose GET response is kept by the rules; no document can fill this (rule 8)."""
    excluded_operations: frozenset[str] = frozenset()
    """Operation ids that are not recorded at all."""
    trailing_slash_allowed: bool = False
    """Whether one slash at a path's end is ignored in matching."""


@dataclass(frozen=True, slots=True)
class SpoolBounds:
    """The spool's bounds; every one is a setting."""

    bytes_max: int = 4 * 1024**3
    """Files of all processes in the folder together, as far as a look every `adopt_interval_ms` can see. A full spool
    refuses."""
    append_deadline_ms: int = 10_000
    """How long a write to the spool may take before the batch is refused."""
    drain_events_max: int = 2_000
    """Events published at once when Kafka is back."""
    drain_bytes_max: int = 4 * 1024**2
    retry_wait_ms: int = 500
    """Pause between attempts to drain while Kafka is away."""
    adopt_interval_ms: int = 5_000
    """How often the folder is looked at for files of processes that have ended."""
    stop_wait_ms: int = 5_000
    """How long a process that is told to end goes on draining; the rest stays for the next start."""
