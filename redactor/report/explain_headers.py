"""What explain shows of the configured headers (rule 14), each by itself, and where account and actor of a pair come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from redactor.compile.denied_headers import NO_HEADERS, DeniedHeaders
from redactor.config import RedactionConfig
from redactor.decode.headers import (
    CONTENT_LENGTH,
    HEADER_FIELDS,
    HOST,
    HeaderFields,
    HeaderReader,
    kept_request_id,
)
from redactor.identity.claims import VerifiedActor
from redactor.identity.tokens import TokenVerifier
from redactor.issuer_config import token_headers
from redactor.pipeline.resolved_operation import ResolvedOperation
from redactor.report.decisions import Decision, ExplainedPart, Outcome, dropped
from schemas.capture import Capture
from schemas.event import AuditEvent, IdentitySource
from schemas.identity import id_ms

_DENIED: Final = dropped(5, "the document denies it", "")
_REFUSED: Final = dropped(14, "it does not occur exactly once, or is not well-formed", "")
_SECOND_ID: Final = dropped(14, "another request id goes before it", "")
_PEER_COUNTS: Final = dropped(14, "the request does not come from a trusted proxy", "")
_UNUSABLE: Final = dropped(14, "its addresses cannot be read", "")
_PATH_COUNTS: Final = dropped(15, "the path names the account", "")
_KEPT: Final = Decision(Outcome.KEPT, 14, "a configured header that occurs once and is well-formed", "")
_KEPT_ADDRESS: Final = Decision(
    Outcome.KEPT, 14, "the first address from the right that is no trusted proxy", ""
)
_KEPT_FACT: Final = Decision(Outcome.KEPT, 14, "a fact of the exchange", "")
_NO_FACT: Final = dropped(14, "it tells nothing that is certain of the exchange", "")
_TOKEN: Final = dropped(14, "may carry a token, which is read for who acted and never recorded", "")
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
    """That of `KeptHeaders`, or of `Exchange`, for its value."""

    @property
    def label(self) -> str:
        return f"{'request' if self.of_request else 'response'}: {self.name}"

    def is_in(self, denied: DeniedHeaders) -> bool:
        """Whether it is among the headers that a document denies."""
        return self.name in (denied.of_request if self.of_request else denied.of_response)


_OF_EXCHANGE: Final = (
    ConfiguredHeader(True, HOST, "host"),
    ConfiguredHeader(False, CONTENT_LENGTH, "response_bytes"),
)


def configured_headers(config: RedactionConfig) -> Iterator[ConfiguredHeader]:
    """Yield the headers that are read; those with a request id in the order in which they count."""
    names = config.headers
    found = [ConfiguredHeader(True, names.user_agent, "user_agent")]
    found += [
        ConfiguredHeader(side, name, "request_id") for side in (True, False) for name in names.request_ids
    ]
    found.append(ConfiguredHeader(True, names.client_address, "client_address"))
    found += [
        ConfiguredHeader(False, getattr(names, attribute), attribute)
        for attribute in names.__slots__
        if attribute not in ("user_agent", "client_address", "request_ids")
    ]
    if config.exchange_facts_kept:
        found += _OF_EXCHANGE
    return (each for each in found if each.name)


def headers_of_operation(config: RedactionConfig, resolved: ResolvedOperation) -> Iterator[ExplainedPart]:
    """Yield which headers may be recorded of an operation's pairs."""
    denials = {resolved.denied_headers(status) or NO_HEADERS for status in range(100, 600)}
    for header in configured_headers(config):
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
        config: RedactionConfig,
        capture: Capture,
        event: AuditEvent,
        denied: DeniedHeaders,
        verifier: TokenVerifier | None = None,
        *,
        path_names_account: bool,
    ) -> None:
        """`denied`: the headers that the document denies. `path_names_account`: whether the path of a matched request does."""
        self._capture = capture
        self._config = config
        self._token_headers = token_headers(config.issuers)
        self._claims: Mapping[str, str] = {}
        if verifier is not None:
            found = verifier.verify(capture.request.headers, id_ms(event.id), denied.of_request)
            self._claims = found.claims if isinstance(found, VerifiedActor) else {}
        self._names = names = config.headers
        self._event = event
        self._denied = denied
        all_headers = HeaderReader(names)
        self._request = all_headers.of_request(capture.request.headers)
        self._response = all_headers.of_response(capture.response.headers)
        reader = HeaderReader(names, denied.of_request, denied.of_response)
        self._kept = reader.kept(
            reader.of_request(capture.request.headers), reader.of_response(capture.response.headers)
        )
        self._is_of_trusted_proxy = (
            config.client_addresses is not None
            and capture.client_ip is not None
            and config.client_addresses.trusts(capture.client_ip)
        )
        is_matched = event.receipt.unmatched is None
        # Of an altered request the header counts first, and the path is read in another way.
        self._is_account_in_path = path_names_account if is_matched else self._kept.account_id is None

    def parts(self) -> Iterator[ExplainedPart]:
        """Yield what became of each configured header."""
        has_request_id = False
        for header in configured_headers(self._config):
            is_present = self._fields(header).present(header.name)
            decision = _KEPT
            if header.is_in(self._denied):
                decision = _DENIED
            elif is_present:
                decision = self._decision(header, has_request_id=has_request_id)
                has_request_id = has_request_id or (header.attribute == "request_id" and decision == _KEPT)
            yield ExplainedPart(header.label, decision, present=is_present)
        sent = HeaderFields(self._capture.request.headers, self._token_headers)
        for name in sorted(self._token_headers):
            decision = _DENIED if name in self._denied.of_request else _TOKEN
            yield ExplainedPart(f"request: {name}", decision, present=sent.present(name))
        yield _ANY_OTHER

    def _fields(self, header: ConfiguredHeader) -> HeaderFields:
        if header in _OF_EXCHANGE:
            message = self._capture.request if header.of_request else self._capture.response
            return HeaderFields(message.headers, frozenset({header.name}))
        return self._request if header.of_request else self._response

    def _decision(self, header: ConfiguredHeader, *, has_request_id: bool) -> Decision:
        """Return what became of a header that the pair has and the document does not deny."""
        if header in _OF_EXCHANGE:
            is_kept = getattr(self._event.exchange, header.attribute, None) is not None
            return _KEPT_FACT if is_kept else _NO_FACT
        if header.attribute == "client_address":
            return self._client_address_decision()
        if header.attribute == "request_id":
            value = kept_request_id(self._fields(header).once(header.name))
        else:
            value = getattr(self._kept, header.attribute)
        if value is None:
            return _REFUSED
        if header.attribute == "request_id" and has_request_id:
            return _SECOND_ID
        return _PATH_COUNTS if header.attribute == "account_id" and self._is_account_in_path else _KEPT

    def _client_address_decision(self) -> Decision:
        if not self._is_of_trusted_proxy:
            return _PEER_COUNTS
        return _UNUSABLE if self._event.actor.ip_address is None else _KEPT_ADDRESS

    def fields(self) -> Iterator[ExplainedField]:
        """Yield the account's id, then the actor's fields and other ids that are filled or refused."""
        refused = self._event.receipt.refused
        yield ExplainedField("account.id", self._account_source(), "account.id" in refused)
        sources = self._actor_sources()
        if self._event.actor.ip_address is not None:
            sources["actor.ip_address"] = self._address_source()
        for name in dict.fromkeys((*sources, *refused)):
            if name != "account.id":
                yield ExplainedField(name, sources.get(name), name in refused)

    def _actor_sources(self) -> dict[str, str]:
        """Return what fills each field of the actor but its address: a verified token, else the response."""
        identity = self._event.receipt.identity
        if identity is not None and identity.source is IdentitySource.TOKEN:
            return {field: f"the claim {claim} of {identity.issuer}" for field, claim in self._claims.items()}
        return {
            field: f"the response header {getattr(self._names, attribute)}"
            for field, attribute in HEADER_FIELDS
            if field != "account.id" and getattr(self._kept, attribute) is not None
        }

    def _address_source(self) -> str:
        name = self._names.client_address
        if (
            not self._is_of_trusted_proxy
            or name in self._denied.of_request
            or not self._request.present(name)
        ):
            return "the tap"
        return f"the request header {name}"

    def _account_source(self) -> str | None:
        if self._event.account.id is None:
            return None if self._event.zone.id is None else "the zone in the path, which is looked up"
        return "the path" if self._is_account_in_path else f"the response header {self._names.account_id}"
