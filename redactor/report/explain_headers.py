"""What explain shows of the configured headers (rule 14), each by itself, and where account and actor of a pair come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from redactor.compile.denied_headers import NO_HEADERS, DeniedHeaders
from redactor.config import HeaderNames
from redactor.decode.headers import HEADER_FIELDS, HeaderReader, kept_request_id
from redactor.pipeline.resolved_operation import ResolvedOperation
from redactor.report.decisions import Decision, ExplainedPart, Outcome, dropped
from schemas.capture import Capture
from schemas.event import AuditEvent

_DENIED: Final = dropped(5, "the document denies it", "")
_REFUSED: Final = dropped(14, "it does not occur exactly once, or is not well-formed", "")
_SECOND_ID: Final = dropped(14, "another request id goes before it", "")
_PATH_COUNTS: Final = dropped(15, "the path names the account", "")
_KEPT: Final = Decision(Outcome.KEPT, 14, "a configured header that occurs once and is well-formed", "")
_ANY_OTHER: Final = ExplainedPart("any other header", dropped(14, "never recorded", ""))


@dataclass(frozen=True)
class ExplainedField:
    """A field of the event that says whose action it was. `refused`: something was given for it and is not recorded."""

    name: str
    source: str | None
    """What the field's value comes from, in words; None where the field is empty."""
    refused: bool


class ConfiguredHeader(NamedTuple):
    """A header that the configuration reads, of requests or of responses."""

    of_request: bool
    name: str
    attribute: str
    """That of `KeptHeaders` for its value."""

    @property
    def label(self) -> str:
        return f"{'request' if self.of_request else 'response'}: {self.name}"

    def is_in(self, denied: DeniedHeaders) -> bool:
        """Whether it is among the headers that a document denies."""
        return self.name in (denied.of_request if self.of_request else denied.of_response)


def configured_headers(names: HeaderNames) -> Iterator[ConfiguredHeader]:
    """Yield the headers that are read; those with a request id in the order in which they count."""
    found = [ConfiguredHeader(True, names.user_agent, "user_agent")]
    found += [
        ConfiguredHeader(side, name, "request_id") for side in (True, False) for name in names.request_ids
    ]
    found += [
        ConfiguredHeader(False, getattr(names, attribute), attribute)
        for attribute in names.__slots__
        if attribute not in ("user_agent", "request_ids")
    ]
    return (each for each in found if each.name)


def headers_of_operation(names: HeaderNames, resolved: ResolvedOperation) -> Iterator[ExplainedPart]:
    """Yield which headers may be recorded of an operation's pairs."""
    denials = {resolved.denied_headers(status) or NO_HEADERS for status in range(100, 600)}
    for header in configured_headers(names):
        denying = [each for each in denials if header.is_in(each)]
        decision = Decision(Outcome.KEPT, 14, "configured", "")
        if len(denying) == len(denials):
            decision = _DENIED
        elif denying:
            decision = decision._replace(reason="configured, and denied for some statuses")
        yield ExplainedPart(header.label, decision)
    yield _ANY_OTHER


class PairHeaders:
    """The configured headers of one pair, and the fields of its event that they fill."""

    def __init__(
        self,
        names: HeaderNames,
        capture: Capture,
        event: AuditEvent,
        denied: DeniedHeaders,
        *,
        path_names_account: bool,
    ) -> None:
        """`denied`: the headers that the document denies. `path_names_account`: whether the path of a matched request does."""
        self._names = names
        self._event = event
        self._denied = denied
        all_headers = HeaderReader(names)
        self._request = all_headers.of_request(capture.request.headers)
        self._response = all_headers.of_response(capture.response.headers)
        reader = HeaderReader(names, denied.of_request, denied.of_response)
        self._kept = reader.kept(
            reader.of_request(capture.request.headers), reader.of_response(capture.response.headers)
        )
        is_matched = event.receipt.unmatched is None
        # Of an altered request the header counts first, and the path is read in another way.
        self._is_account_in_path = path_names_account if is_matched else self._kept.account_id is None

    def parts(self) -> Iterator[ExplainedPart]:
        """Yield what became of each configured header."""
        has_request_id = False
        for header in configured_headers(self._names):
            fields = self._request if header.of_request else self._response
            value = getattr(self._kept, header.attribute)
            if header.attribute == "request_id":
                value = kept_request_id(fields.once(header.name))
            is_present = fields.present(header.name)
            decision = _KEPT
            if header.is_in(self._denied):
                decision = _DENIED
            elif is_present and value is None:
                decision = _REFUSED
            elif is_present and header.attribute == "request_id":
                decision = _SECOND_ID if has_request_id else _KEPT
                has_request_id = True
            elif is_present and header.attribute == "account_id" and self._is_account_in_path:
                decision = _PATH_COUNTS
            yield ExplainedPart(header.label, decision, present=is_present)
        yield _ANY_OTHER

    def fields(self) -> Iterator[ExplainedField]:
        """Yield the account's id, then the actor's fields and other ids that are filled or refused."""
        refused = self._event.receipt.refused
        yield ExplainedField("account.id", self._account_source(), "account.id" in refused)
        sources = {
            field: f"the response header {getattr(self._names, attribute)}"
            for field, attribute in HEADER_FIELDS
            if field != "account.id" and getattr(self._kept, attribute) is not None
        }
        if self._event.actor.ip_address is not None:
            sources["actor.ip_address"] = "the tap"
        for name in dict.fromkeys((*sources, *refused)):
            if name != "account.id":
                yield ExplainedField(name, sources.get(name), name in refused)

    def _account_source(self) -> str | None:
        if self._event.account.id is None:
            return None if self._event.zone.id is None else "the zone in the path, which is looked up"
        return "the path" if self._is_account_in_path else f"the response header {self._names.account_id}"
