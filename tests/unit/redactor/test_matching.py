from __future__ import annotations

from typing import Any

import pytest

from schemas.capture import Headers
from schemas.errors import StartupError
from schemas.event import AuditEvent, BodyReason, UnmatchedReason
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import a_pair, a_redactor, event_of, text_of
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, an_object


def paths_of(*templates: str, method: str = "get") -> Node:
    return {template: {method: an_operation() | {"operationId": template}} for template in templates}


def in_query(name: str, schema: Node) -> Node:
    return {"name": name, "in": "query", "schema": schema}


def matched(
    paths: Node, url: str, method: str = "GET", headers: Headers | None = None, **settings: Any
) -> AuditEvent:
    servers = settings.pop("servers", None)
    document = a_document(paths, **({} if servers is None else {"servers": servers}))
    return event_of(a_redactor(document, **settings), a_pair(method=method, url=url, request_headers=headers))


@pytest.mark.parametrize(
    ("templates", "url", "operation"),
    [
        (["/a/{x}", "/a/b"], "/a/b", "/a/b"),
        (["/a/{x}", "/a/b"], "/a/c", "/a/{x}"),
        (["/a/b/d", "/a/{x}/c"], "/a/b/c", "/a/{x}/c"),
        (["/s/{id}", "/s/{id}.png"], "/s/1.png", "/s/{id}.png"),
        (["/s/{id}", "/s/{id}.png"], "/s/.png", "/s/{id}"),
        (["/s/x.png", "/s/{id}.png"], "/s/x.png", "/s/x.png"),
        (["/m/{id}", "/m/members:batchCreate"], "/m/members:batchCreate", "/m/members:batchCreate"),
        (["/m/{model}", "/m/@cf/x/y-v1.5"], "/m/@cf/x/y-v1.5", "/m/@cf/x/y-v1.5"),
        (["/{x}/b", "/a/{y}"], "/a/c", "/a/{y}"),
        (["/a/{x}/b/{x}"], "/a/1/b/2", "/a/{x}/b/{x}"),
        (["/caf\u00e9/{x}"], "/caf%C3%A9/1", "/caf\u00e9/{x}"),
        (["/a%20b"], "/a%20b", "/a%20b"),
        (["/a b"], "/a%20b", "/a b"),
        (["/"], "/", "/"),
        (["/a/"], "/a/", "/a/"),
        (["/e/{t}.{n}"], "/e/1.2", "/e/{t}.{n}"),
        (["/a.c"], "/a.c", "/a.c"),
    ],
)
def test_the_more_literal_template_applies(templates: list[str], url: str, operation: str) -> None:
    assert matched(paths_of(*templates), url).receipt.operation == operation


@pytest.mark.parametrize(
    "url",
    ["/a/b/", "/a//b", "//a/b", "/a/./b", "/a/../b", "/a/%2e%2e/b", "/a/%2E/b", "/a/x%2fy", "/a/x%5cy", "/a/x\\y",
     "/a/b;v=1", "/a/b%3Bv", "/a/%2562", "/a/%zz", "/a/%", "/a/%ff", "/a/%00", "/a/x\x7f", "/a/%c2%85", "a/b", "",
     "/a/\ud800"],
)  # fmt: skip
def test_paths_that_match_nothing(url: str) -> None:
    event = matched(paths_of("/a/{x}", "/a/{x}/b", "/a/{x}/{y}"), url)
    assert event.receipt.unmatched is UnmatchedReason.INVALID_PATH
    assert event.receipt.request.reason is event.receipt.response.reason is BodyReason.GET
    assert event.raw.uri in ("/a/…", "/a/{x}", "/a/{x}/b", "/a/{x}/{y}", "/…")


@pytest.mark.parametrize("url", ["/A/b", "/a", "/a/b/c", "/a.c/b", "/abc"])
def test_paths_that_no_template_matches(url: str) -> None:
    assert matched(paths_of("/a/{x}", "/a.c"), url).receipt.unmatched is UnmatchedReason.NO_PATH


def test_a_dot_in_a_template_is_a_dot() -> None:
    assert matched(paths_of("/s/{id}.png"), "/s/1xpng").receipt.unmatched is UnmatchedReason.NO_PATH


def test_one_trailing_slash_may_be_allowed() -> None:
    paths = paths_of("/a/{x}")
    assert matched(paths, "/a/b/", trailing_slash_allowed=True).receipt.operation == "/a/{x}"
    for url in ("/a/b//", "/a/"):
        receipt = matched(paths, url, trailing_slash_allowed=True).receipt
        assert receipt.unmatched is UnmatchedReason.INVALID_PATH


def test_only_templates_that_have_the_method_compete() -> None:
    paths = paths_of("/a/b") | paths_of("/a/{x}", method="delete")
    assert matched(paths, "/a/b", "DELETE").receipt.operation == "/a/{x}"
    assert matched(paths, "/a/b", "PUT").receipt.unmatched is UnmatchedReason.NO_METHOD
    assert matched(paths, "/a/b", "HEAD").receipt.unmatched is UnmatchedReason.NO_METHOD


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override"])
def test_a_method_override_is_no_operation(header: str) -> None:
    event = matched(paths_of("/a/{x}"), "/a/b", headers={header: "DELETE"})
    assert event.receipt.unmatched is UnmatchedReason.METHOD_OVERRIDE
    assert event.raw.uri == "/a/{x}"
    assert matched(paths_of("/a/{x}"), "/b/b", headers={header: "DELETE"}).raw.uri == "/…"
    assert (
        matched(paths_of("/a/{x}"), "/a/b?%5Fmethod=x").receipt.unmatched is UnmatchedReason.METHOD_OVERRIDE
    )


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"a=1&_method=DELETE"),
        ("application/x-www-form-urlencoded", b"%5Fmethod=DELETE"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="_method"\r\n\r\nDELETE',
        ),
    ],
)
def test_a_forms_method_override_is_no_operation(media_type: str, body: bytes) -> None:
    redactor = a_redactor(a_document(paths_of("/a/{x}", method="post")))
    headers: Headers = {"Content-Type": media_type}
    event = event_of(redactor, a_pair(url="/a/b", body=body, request_headers=headers))
    assert event.receipt.unmatched is UnmatchedReason.METHOD_OVERRIDE
    other = event_of(redactor, a_pair(url="/a/b", body=b"a=_method&b=1", request_headers=headers))
    assert other.receipt.operation == "/a/{x}"


class TestTies:
    def crosswise(self, first: Node, second: Node, url: str = "/a/b") -> AuditEvent:
        query = [{"name": name, "in": "query", "schema": MARKED} for name in ("p", "q")]
        one = an_operation(first, parameters=query) | {"operationId": "one", "summary": "S"}
        two = an_operation(second, parameters=query[:1]) | {"operationId": "two", "summary": "S"}
        document = a_document({"/{x_id}/b": {"post": one}, "/a/{y}": {"post": two}})
        return event_of(
            a_redactor(document), a_pair(url=url + "?p=1&q=s", body={"m": "1", "n": "s", "o": {"k": "1"}})
        )

    def test_what_all_of_them_keep_is_kept(self) -> None:
        deep = an_object(k=MARKED)
        event = self.crosswise(an_object(m=MARKED, n=TEXT, o=deep), an_object(m=MARKED, n=MARKED, o=TEXT))
        assert event.receipt.operation == "two|one"
        assert text_of(event.resource.request) == '{"m":"1"}'
        assert event.receipt.request.kept == 1
        assert event.raw.uri == "/a/{y}?p=1"
        assert (event.action.description, event.resource.product) == ("S", None)

    def test_containers_with_nothing_in_common_vanish(self) -> None:
        event = self.crosswise(an_object(o=an_object(k=MARKED)), an_object(o=an_object(k=TEXT, z=MARKED)))
        assert text_of(event.resource.request) is None

    def test_twins_of_one_shape(self) -> None:
        one = an_operation(an_object(m=MARKED, n=MARKED)) | {"operationId": "one"}
        two = an_operation(an_object(m=MARKED, n=TEXT)) | {"operationId": "two"}
        document = a_document({"/things/{a_id}": {"post": one}, "/things/{name}": {"post": two}})
        event = event_of(a_redactor(document), a_pair(url="/things/s", body={"m": "1", "n": "s"}))
        assert text_of(event.resource.request) == '{"m":"1"}'
        assert event.raw.uri == "/things/{name}"
        assert event.resource.id is None

    @pytest.mark.parametrize(
        "key",
        ["/things/{a_id}?beta=true", "/things/{name}#share", "/things/{a_id}{?beta,q}", "/things/{a_id}#{part}?x",
         "/things/{a_id}?next=/other/{x}"],
    )  # fmt: skip
    def test_a_query_or_fragment_in_a_path_key_makes_it_a_twin_of_its_path(self, key: str) -> None:
        plain = an_operation(an_object(m=MARKED, n=MARKED)) | {"operationId": "plain"}
        other = an_operation(an_object(m=MARKED, n=DENIED)) | {"operationId": "other"}
        for paths in ({"/things/{a_id}": plain, key: other}, {key: other, "/things/{a_id}": plain}):
            document = a_document({template: {"post": each} for template, each in paths.items()})
            for url in ("/things/1", "/things/1?beta=true", "/things/1#share"):
                event = event_of(a_redactor(document), a_pair(url=url, body={"m": "1", "n": "s3cret"}))
                assert set((event.receipt.operation or "").split("|")) == {"plain", "other"}
                assert text_of(event.resource.request) == '{"m":"1"}'

    def test_a_path_key_with_a_query_keeps_nothing_where_its_path_is_not_declared(self) -> None:
        variant = an_operation(an_object(m=MARKED), parameters=[in_query("q", MARKED)])
        plain = {"get": an_operation(), "post": variant}
        for paths, kept in (
            ({"/a/{x_id}?b=c": {"post": variant}}, False),
            ({"/a/{x_id}?b=c": {"post": variant}, "/a/{y_id}": {"get": an_operation()}}, False),
            ({"/a/{x_id}?b=c": {"post": variant}, "/a/{y_id}": plain}, True),
        ):
            document = loaded(a_document(paths))
            event = event_of(a_redactor(document), a_pair(url="/a/7?b=c&q=1", body={"m": "1"}))
            assert event.raw.uri == ("/a/7?q=1" if kept else "/a/7")
            assert text_of(event.resource.request) == ('{"m":"1"}' if kept else None)
            assert ("path_not_declared" in {each.code for each in document.findings}) is not kept

    def test_a_variable_may_have_any_other_character_in_its_name(self) -> None:
        assert matched(paths_of("/a/{b?}/{c#d}"), "/a/1/2").receipt.operation == "/a/{b?}/{c#d}"

    def test_one_that_lacks_a_schema_or_opts_out_decides(self) -> None:
        one = an_operation(MARKED) | {"operationId": "one"}
        for other, reason in (
            (an_operation(), "no_schema"),
            (an_operation(MARKED, **{"x-auditable": False}), "opted_out"),
        ):
            document = a_document({"/t/{a}": {"post": one}, "/t/{b}": {"post": other}})
            event = event_of(a_redactor(document), a_pair(url="/t/s?q=1", body="s"))
            assert event.receipt.request.reason == reason

    def test_a_dominated_template_has_no_say(self) -> None:
        paths = paths_of("/{x}/{y}", "/a/{y}", "/{x}/b", "/a/b")
        assert matched(paths, "/a/b").receipt.operation == "/a/b"
        assert matched(paths, "/a/c").receipt.operation == "/a/{y}"


class TestServers:
    @pytest.mark.parametrize(
        ("servers", "url", "found"),
        [
            ([{"url": "https://api.example.com/client/v4"}], "https://api.example.com/client/v4/a/1", True),
            ([{"url": "https://api.example.com/client/v4/"}], "/client/v4/a/1", True),
            ([{"url": "/client/v4"}], "/client/v4/a/1", True),
            ([{"url": "/client/v4"}], "/a/1", False),
            ([{"url": "/client/v4"}], "/client/v5/a/1", False),
            ([{"url": "/v1"}, {"url": "/v2"}], "/v2/a/1", True),
            ([{"url": "https://x.example.com"}], "https://other.example.com/a/1", True),
            ([], "/a/1", True),
            ([{"url": "/{v}", "variables": {"v": {"enum": ["v1", "v2"], "default": "v1"}}}], "/v2/a/1", True),
            (
                [{"url": "/{v}", "variables": {"v": {"enum": ["v1", "v2"], "default": "v1"}}}],
                "/v3/a/1",
                False,
            ),
            ([{"url": "/{v}", "variables": {"v": {"default": "v1"}}}], "/v3/a/1", True),
            ([{"url": "/{v}", "variables": {"v": {"default": ""}}}], "/a/1", True),
            (
                [{"url": "https://h.example{b}", "variables": {"b": {"default": "/sell/v1"}}}],
                "/sell/v1/a/1",
                True,
            ),
            ([{"url": "https://h.example{b}", "variables": {"b": {"default": "/sell/v1"}}}], "/a/1", False),
            ([{"url": "/x/{b}/y", "variables": {"b": {"default": "c/d"}}}], "/x/c/d/y/a/1", True),
            ([{"url": "/x/{b}/y", "variables": {"b": {"default": "c/d"}}}], "/x/c/y/a/1", False),
            ([{"url": "{s}/y", "variables": {"s": {"default": "https://h.example/x"}}}], "/x/y/a/1", True),
            (
                [{"url": "/{b}", "variables": {"b": {"default": "c/d", "enum": ["e/f", "g"]}}}],
                "/e/f/a/1",
                True,
            ),
            (
                [{"url": "/{b}", "variables": {"b": {"default": "c/d", "enum": ["e/f", "g"]}}}],
                "/c/d/a/1",
                True,
            ),
            (
                [{"url": "https://{r}.example.com:{p}/b", "variables": {}}],
                "https://eu.example.com:8443/b/a/1",
                True,
            ),
        ],
    )
    def test_base_paths(self, servers: list[Node], url: str, found: bool) -> None:
        event = matched(paths_of("/a/{id}"), url, servers=servers)
        assert event.receipt.operation == ("/a/{id}" if found else None)
        if found:
            assert event.raw.uri == "/a/1"
            assert event.resource.id == "1"

    def test_configured_base_paths_replace_those_of_the_servers(self) -> None:
        document = a_document(paths_of("/a/{id}"), servers=[{"url": "https://h.example/client/v4"}])
        for base_paths, found in (
            (("/",), ("/a/1",)),
            (("/edge/api",), ("/edge/api/a/1",)),
            (("/", "/client/v4"), ("/a/1", "/client/v4/a/1")),
        ):
            redactor = a_redactor(loaded(document, base_paths=base_paths))
            for url in ("/a/1", "/client/v4/a/1", "/edge/api/a/1"):
                event = event_of(redactor, a_pair(method="GET", url=url))
                assert event.receipt.operation == ("/a/{id}" if url in found else None)
        for wrong in ("api", "/{x}", "/a%20b", "", "/x/../y", "/..", "/a\x7fb"):
            with pytest.raises(StartupError):
                a_redactor(loaded(document, base_paths=(wrong,)))

    def test_the_nearest_level_that_lists_servers_counts(self) -> None:
        paths = paths_of("/a", "/b", "/c")
        paths["/b"]["servers"] = [{"url": "/path"}]
        paths["/c"]["servers"] = [{"url": "/path"}]
        paths["/c"]["get"]["servers"] = [{"url": "/operation"}]
        servers = [{"url": "/document"}]
        for url in ("/document/a", "/path/b", "/operation/c"):
            assert matched(paths, url, servers=servers).receipt.operation == url[-2:]
        for url in ("/path/a", "/document/b", "/document/c", "/path/c"):
            assert matched(paths, url, servers=servers).receipt.operation is None

    def test_an_unmatched_path_is_recorded_without_the_base_path(self) -> None:
        servers = [{"url": "https://api.example.com/client/v4"}]
        assert matched(paths_of("/a/b/{x}"), "/client/v4/a/b/c/d", servers=servers).raw.uri == "/a/b/…"
        assert matched(paths_of("/a/b/{x}"), "/client/s3cret", servers=servers).raw.uri == "/client/…"

    def test_too_many_forms_of_a_server_are_cut_off(self) -> None:
        variables = {name: {"enum": [str(i) for i in range(100)], "default": "0"} for name in "abcdef"}
        document = loaded(
            a_document(paths_of("/x"), servers=[{"url": "/{a}{b}{c}{d}{e}{f}", "variables": variables}])
        )
        a_redactor(document)
        assert [finding.code for finding in document.findings] == ["unusable_server"]

    @pytest.mark.parametrize(
        "host",
        [
            "https://api.internal",
            "api.internal:8443",
            "api.internal:",
            "*.internal",
            "",
            ".",
            "a:b:c",
            "api.internal/v1",
            "m\xfcnchen.example",
            "::1",
            " api.internal",
        ],
    )
    def test_a_host_that_no_request_can_have_is_refused(self, host: str) -> None:
        with pytest.raises(StartupError, match=r"hosts of document.json: write a host name alone"):
            loaded(a_document(paths_of("/a")), hosts=("api.example.com", host))


class TestSeveralDocuments:
    def redact(self, url: str, headers: Headers | None = None) -> tuple[str | None, UnmatchedReason | None]:
        def document(name: str, **keywords: Any) -> Node:
            return a_document({"/a": {"get": an_operation() | {"operationId": name}}}, **keywords)

        documents = [
            loaded(document("first", servers=[{"url": "https://one.example.com"}])),
            loaded(document("second"), hosts=("two.example.com", "Three.example.com.", "[2001:DB8::1]")),
            loaded(document("third", servers=[{"url": "https://{r}.four.example.com"}])),
            loaded(document("fourth", servers=[{"url": "https://<your host>"}])),
        ]
        event = event_of(a_redactor(*documents), a_pair(method="GET", url=url, request_headers=headers))
        return event.receipt.operation, event.receipt.unmatched

    @pytest.mark.parametrize(
        ("host", "operation"),
        [
            ("one.example.com", "first"),
            ("ONE.example.com:443", "first"),
            ("user@two.example.com", "second"),
            ("three.example.com", "second"),
            ("[2001:db8::1]:8443", "second"),
            ("eu.four.example.com", "third"),
        ],
    )
    def test_the_host_chooses(self, host: str, operation: str) -> None:
        assert self.redact(f"https://{host}/a") == (operation, None)
        if "@" not in host:
            assert self.redact("/a", {"Host": host}) == (operation, None)

    @pytest.mark.parametrize(
        "host", ["five.example.com", "two.example.com@five.example.com", "a.b.four.example.com", "xtwo.example.com",
                 "five.example.com#@two.example.com"]
    )  # fmt: skip
    def test_a_host_that_no_document_serves(self, host: str) -> None:
        assert self.redact(f"https://{host}/a") == (None, UnmatchedReason.NO_DOCUMENT)

    def test_without_a_host_that_can_be_read_no_document_matches(self) -> None:
        # All those that may be meant agree on whose action it was (ADR 0026).
        attributed = ("first|second|third", UnmatchedReason.NO_DOCUMENT)
        for url in ("https://two.example.com\\@five.example.com/a", "https:///a", "/a"):
            assert self.redact(url) == attributed
        assert self.redact("/a", {"host": ["two.example.com"] * 2}) == attributed

    def test_the_urls_host_counts_before_the_header(self) -> None:
        assert self.redact("https://one.example.com/a", {"host": "two.example.com"}) == ("first", None)
