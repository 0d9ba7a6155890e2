"""What a sender without a token can do to a server. These tests are what notices an update of uvicorn or httptools that breaks a limit."""

from __future__ import annotations

import contextlib
import gc
import resource
import socket
import ssl
import subprocess
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from auditap.runtime import http_server
from auditap.runtime.descriptors import DescriptorShares
from auditap.runtime.http_limits import HttpLimits
from auditap.runtime.http_server import TlsFiles
from gateway_tap.unix_socket import bind_unix_socket
from tests.unit.auditap.http_servers import GET, LOOPS, Client, Running, running, until

pytestmark = pytest.mark.parametrize("loop", LOOPS)

LIMITS = HttpLimits()
START = b"GET / HTTP/1.1\r\nhost: a\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
MIB = 1024 * 1024


def send_until_closed(client: Client, head: bytes, piece: bytes, size_bytes: int) -> None:
    """Send `head`, then `piece` again and again, up to `size_bytes` or until the server ends the connection."""
    client.send(head)
    try:
        for _ in range(size_bytes // len(piece)):
            client.socket.sendall(piece)
    except ConnectionError:
        pass


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (START + b"a: %b\r\n\r\n" % (b"x" * LIMITS.headers_bytes_max), 431),
        (START + b"a: %b" % (b"x" * 2 * LIMITS.headers_bytes_max), 431),
        (START + b"%b: b\r\n\r\n" % (b"x" * LIMITS.headers_bytes_max), 431),
        (START + b"a: b\r\n" * LIMITS.headers_max + b"\r\n", 431),
        (START + b"a:%b\r\n\r\n" % (b" " * 3 * LIMITS.headers_bytes_max), 431),
        (b"GET /%b HTTP/1.1\r\nhost: a\r\n\r\n" % (b"x" * LIMITS.target_bytes_max), 414),
        (b"GET /?%b" % (b"x" * LIMITS.target_bytes_max), 414),
        (b"\r\n" * LIMITS.headers_bytes_max + b"\r\n", 431),
        (b"x" * 100_000, 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (START + b"a\x00b: c\r\n\r\n", 400),
        (START + b"a: b\r\n c\r\n\r\n", 400),
    ],
    ids=[
        "long field",
        "endless field",
        "long name",
        "fields",
        "white space",
        "target",
        "endless target",
        "line ends",
        "method",
        "HTTP/2",
        "CONNECT",
        "TLS",
        "NUL",
        "folded field",
    ],
)
def test_a_head_beyond_the_limits_is_refused(loop: str, head: bytes, status: int) -> None:
    with running(loop) as server:
        client = server.connect()
        client.send(head)
        assert client.statuses() == [status]
        assert server.connect().get() == (200, b"hello")


def test_a_head_at_the_limits_is_served(loop: str) -> None:
    target = b"/?" + b"x" * (LIMITS.target_bytes_max - 2)
    fields = [b"host: a\r\n", *(b"a%03d: b\r\n" % number for number in range(LIMITS.headers_max - 2))]
    left = LIMITS.headers_bytes_max - sum(map(len, fields)) - len(b"z: \r\n")
    with running(loop) as server:
        client = server.connect()
        client.send(b"GET %b HTTP/1.1\r\n%bz: %b\r\n\r\n" % (target, b"".join(fields), b"x" * left))
        assert client.response() == (200, b"hello")
        client.send(b"GET / HTTP/1.1\r\n%bz: %b\r\n\r\n" % (b"".join(fields), b"x" * (left + 1)))
        assert client.statuses() == [431]


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (START, b"a: b\r\n" * 10_000),
        (START + b"a: ", b"x" * 65_536),
        (START + b"a:", b" " * 65_536),
        (b"GET /", b"x" * 65_536),
        (b"", b"\r\n" * 32_768),
        (CHUNKED + b"1;", b"x" * 65_536),
        (CHUNKED + b"0\r\na: ", b"x" * 65_536),
        (CHUNKED + b"0\r\n", b"a: b\r\n" * 10_000),
        (CHUNKED, b"1\r\nx\r\n" * 10_000),
        (b"POST /early HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
    ],
    ids=[
        "fields",
        "field",
        "white space",
        "target",
        "line ends",
        "chunk extension",
        "trailer",
        "trailers",
        "small chunks",
        "small chunks after the response",
    ],
)
def test_what_never_ends_is_ended_by_its_size(loop: str, head: bytes, piece: bytes) -> None:
    with running(loop) as server:
        send_until_closed(server.connect(), head, piece, 64 * MIB)
        until(lambda: server.connections() == 0)
        assert server.connect().get() == (200, b"hello")


def test_a_sender_that_goes_on_is_told_why(loop: str) -> None:
    with running(loop) as server:
        client = server.connect()
        # More than the server reads at once, less than it discards.
        client.send(START + b"a: b\r\n" * 100_000)
        assert client.statuses() == [431]
        assert server.ended("headers") + server.ended("headers_bytes") == 1


def test_chunks_of_a_usual_size_are_read(loop: str) -> None:
    lines = [b"x" * 80 for _ in range(5_000)]
    with running(loop) as server:
        client = server.connect()
        client.send(
            CHUNKED + b"".join(b"50\r\n%b\r\n" % line for line in lines) + b"0\r\nexpires: never\r\n\r\n"
        )
        assert client.response() == (200, b"".join(lines))
        assert client.get() == (200, b"hello")
        # A trailer is no header: neither of this request nor of the next one.
        assert not any(name == b"expires" for name, _ in chain(*server.app.headers))


@pytest.mark.parametrize(
    "fields",
    [
        b"content-length: 3\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 3\r\n",
        b"content-length: 3\r\ncontent-length: 4\r\n",
        b"content-length: -1\r\n",
        b"content-length: 3, 3\r\n",
        b"content-length : 3\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
    ],
)
def test_a_body_whose_end_is_in_doubt_is_refused(loop: str, fields: bytes) -> None:
    with running(loop) as server:
        client = server.connect()
        client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\n" + fields + b"\r\n0\r\n\r\n" + GET)
        # What follows is never served: somebody in between may take it for the body.
        assert client.statuses() == [400]
        assert not server.app.headers


@pytest.mark.parametrize("fields", [b"", b"connection: keep-alive\r\n"])
def test_http_1_0_gets_one_response(loop: str, fields: bytes) -> None:
    with running(loop) as server:
        client = server.connect()
        client.send(b"GET / HTTP/1.0\r\n" + fields + b"\r\n" + GET)
        assert client.statuses() == [200]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_an_upgrade_is_ignored(loop: str, protocol: bytes) -> None:
    upgrade = START + b"connection: upgrade\r\nupgrade: " + protocol + b"\r\n\r\n"
    with running(loop) as server:
        client = server.connect()
        client.send(upgrade + upgrade + GET)
        assert [client.response() for _ in range(3)] == [(200, b"hello")] * 3
        assert client.get() == (200, b"hello")


@pytest.mark.parametrize("fields", [b"connection: upgrade\r\nupgrade: h2c\r\n", b""])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"content-length: %d" % len(GET), GET),
        (b"transfer-encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(GET), GET)),
        (b"content-length: 0", b""),
    ],
    ids=["length", "chunks", "empty"],
)
def test_a_body_is_no_request_although_its_request_asks_for_an_upgrade(
    loop: str, fields: bytes, framing: bytes, body: bytes
) -> None:
    """A proxy that passes the upgrade on would give the response to what is in the body to another client."""
    whole = b"POST /echo HTTP/1.1\r\nhost: a\r\n" + fields + framing + b"\r\n\r\n" + body
    with running(loop) as server:
        client = server.connect()
        client.send(whole + whole + GET)
        echoed = (200, GET if body else b"")
        assert [client.response() for _ in range(3)] == [echoed, echoed, (200, b"hello")]
        assert client.get() == (200, b"hello")
        assert len(server.app.headers) == 4


def test_pipelined_requests_are_answered_in_order(loop: str) -> None:
    with running(loop) as server:
        client = server.connect()
        requests = [b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n"] * 2 + [GET] * 10
        client.send(b"".join(requests))
        until(lambda: server.app.entered == 1)
        server.open_gate()
        assert [client.response()[1] for _ in requests] == [b"waited"] * 2 + [b"hello"] * 10


def test_pipelined_requests_are_bounded(loop: str) -> None:
    with running(loop) as server:
        client = server.connect()
        client.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n" + GET * 10_000)
        until(lambda: server.ended("pipelined") == 1)
        server.open_gate()
        assert client.statuses() == [200] * (1 + LIMITS.pipelined_max) + [400]
        assert len(server.app.headers) == LIMITS.pipelined_max


@pytest.mark.parametrize(
    "refused", [START + b"a b: c\r\n\r\n", CHUNKED + b"x", CHUNKED + b"1\r\nx\r\n" * 2_000]
)
def test_a_refusal_waits_for_the_responses_before(loop: str, refused: bytes) -> None:
    with running(loop) as server:
        client = server.connect()
        client.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n" + GET + refused + GET)
        until(lambda: server.app.entered == 1)
        server.open_gate()
        assert client.statuses() == [200, 200, 400]
        assert server.app.disconnected == 0


def test_a_stream_ends_with_its_connection_although_a_request_is_pipelined(loop: str) -> None:
    with running(loop) as server:
        client = server.connect()
        client.send(b"GET /tail HTTP/1.1\r\nhost: a\r\n\r\n" + GET)
        until(lambda: server.app.streams == 1)
        client.socket.close()
        until(lambda: server.app.streams == 0)
        assert not server.app.headers


def test_who_says_nothing_is_disconnected(loop: str) -> None:
    with running(loop, head_ms_max=100) as server:
        assert server.connect().rest() == b""
        assert server.ended("head_time") == 1


@pytest.mark.parametrize(
    ("begun", "statuses"), [(b"G", [408]), (START, [408]), (START + b"a: ", [408]), (b"\r\n\r\n", [])]
)
@pytest.mark.parametrize("before", [b"", GET], ids=["first", "later"])
def test_a_head_that_does_not_end_is_answered_408(
    loop: str, begun: bytes, statuses: list[int], before: bytes
) -> None:
    with running(loop, head_ms_max=300) as server:
        client = server.connect()
        if before:
            client.send(before)
            assert client.response() == (200, b"hello")
        client.send(begun)
        # Bytes that trickle win no time.
        assert client.statuses() == statuses
        assert server.ended("head_time") == 1


def test_an_idle_connection_is_closed(loop: str) -> None:
    with running(loop, idle_ms_max=100) as server:
        client = server.connect()
        client.send(GET)
        assert client.response() == (200, b"hello")
        assert client.rest() == b""
        assert server.ended("idle_time") == 1


@pytest.mark.parametrize(
    "fields", [b"content-length: 9\r\n\r\nx", b"transfer-encoding: chunked\r\n\r\n1\r\nx"]
)
def test_a_body_that_does_not_arrive_is_answered_408(loop: str, fields: bytes) -> None:
    with running(loop, body_ms_max=200) as server:
        client = server.connect()
        client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\n" + fields)
        assert client.statuses() == [408]
        until(lambda: server.app.disconnected == 1)
        assert server.ended("body_time") == 1


def test_the_rest_of_an_answered_body_is_awaited_for_a_time_only(loop: str) -> None:
    with running(loop, body_ms_max=200) as server:
        client = server.connect()
        client.send(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx")
        assert client.statuses() == [401]
        assert server.ended("body_time") == 1


def test_the_rest_of_an_answered_body_may_arrive(loop: str) -> None:
    with running(loop, idle_ms_max=300) as server:
        client = server.connect()
        client.send(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx")
        assert client.response() == (401, b"{}")
        client.send(b"x" * 8 + GET)
        assert client.response() == (200, b"hello")
        # Even then the connection is closed once it is idle.
        assert client.rest() == b""
        assert server.ended("idle_time") == 1


def test_what_follows_an_answered_body_is_read_slowly(loop: str) -> None:
    with running(loop) as server:
        client = server.connect()
        client.send(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999\r\n\r\n")
        assert client.response() == (401, b"{}")
        client.socket.settimeout(0.5)
        began, sent_bytes = time.monotonic(), 0
        while time.monotonic() - began < 1:
            with contextlib.suppress(TimeoutError):
                sent_bytes += client.socket.send(b"x" * MIB)
        # What the kernel buffers, and some reads: at full speed it would be a hundred times that.
        assert sent_bytes < 40 * MIB
        assert server.connect().get() == (200, b"hello")


def test_a_long_body_that_is_answered_early_may_arrive(loop: str) -> None:
    with running(loop) as server:
        client = server.connect()
        client.send(
            b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (2 * MIB) + b"x" * 2 * MIB
        )
        client.send(GET)
        assert client.response() == (401, b"{}")
        assert client.response() == (200, b"hello")


def test_an_answered_request_keeps_nothing_of_its_body(loop: str) -> None:
    with running(loop) as server:
        client = server.connect()
        client.send(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 999999\r\n\r\n" + b"x" * 100_000)
        assert client.response() == (401, b"{}")
        client.socket.settimeout(0.1)
        kept = [each for each in gc.get_objects() if isinstance(each, RequestResponseCycle)]
        assert kept
        assert not any(len(cycle.body) for cycle in kept)


def test_fields_are_counted_for_each_request_of_a_connection(loop: str) -> None:
    fields = b"".join(b"a%03d: %b\r\n" % (number, b"x" * 400) for number in range(LIMITS.headers_max - 1))
    with running(loop) as server:
        client = server.connect()
        for _ in range(4):
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n" + fields + b"\r\n")
            assert client.response() == (200, b"hello")


def test_who_does_not_read_is_disconnected(loop: str) -> None:
    with running(loop, write_ms_max=200) as server:
        client = server.connect(receive_bytes=4_096)
        client.send(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
        until(lambda: server.ended("write_time") == 1)
        until(lambda: server.app.streams == 0 and server.connections() == 0)


def test_who_reads_slowly_is_served(loop: str) -> None:
    with running(loop, write_ms_max=60_000) as server:
        client = server.connect(receive_bytes=4_096)
        client.send(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
        for _ in range(200):
            assert client.socket.recv(4_096)
        assert server.app.streams == 1
        assert server.connections() == 1


def test_a_response_that_nobody_reads_does_not_keep_the_connection(loop: str) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    # Of accepted sockets too, so that a part of the response stays in the process.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    with running(loop, listening=listening, idle_ms_max=100, write_ms_max=100) as server:
        client = server.connect(receive_bytes=4_096)
        client.send(b"GET /long HTTP/1.1\r\nhost: a\r\n\r\n")
        until(lambda: server.ended("idle_time") + server.ended("write_time") == 1)
        until(lambda: server.connections() == 0)


def test_the_connection_that_waited_longest_makes_room(loop: str) -> None:
    with running(loop, connections_max=3) as server:
        first, second, third = (server.connect() for _ in range(3))
        for client in (second, third, first):
            assert client.get() == (200, b"hello")
        fourth = server.connect()
        assert fourth.get() == (200, b"hello")
        assert second.rest() == b""
        assert third.get() == first.get() == (200, b"hello")
        assert server.connections() == 3
        assert server.ended("displaced") == 1


def test_whoever_has_most_connections_makes_room(loop: str) -> None:
    with running(loop, connections_max=7) as server:
        good = server.connect()
        assert good.get() == (200, b"hello")
        for number in range(20):
            assert server.connect(f"127.0.0.{2 + number % 3}").get() == (200, b"hello")
        assert good.get() == (200, b"hello")
        assert server.connections() == 7
        assert server.ended("displaced") == 14


def test_who_has_not_said_anything_makes_room(loop: str) -> None:
    with running(loop, connections_max=3) as server:
        held = [server.connect() for _ in range(50)]
        assert server.connect().get() == (200, b"hello")
        assert server.connections() <= 3
        assert held[0].rest() == b""


def test_who_trickles_a_head_makes_room(loop: str) -> None:
    with running(loop, connections_max=2) as server:
        slow = server.connect()
        slow.send(START)
        good = server.connect()
        assert good.get() == (200, b"hello")
        assert server.connect().get() == (200, b"hello")
        assert slow.rest() == b""
        assert good.get() == (200, b"hello")


def test_who_is_served_keeps_the_place(loop: str) -> None:
    with running(loop, connections_max=2) as server:
        busy = [server.connect() for _ in range(2)]
        for client in busy:
            client.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
        until(lambda: server.app.entered == 2)
        assert server.connect().rest() == b""
        assert server.refused("connections_max") == 1
        server.open_gate()
        assert [client.response() for client in busy] == [(200, b"waited")] * 2
        assert server.connect().get() == (200, b"hello")


def test_an_address_has_its_own_limit(loop: str) -> None:
    with running(loop, connections_per_address_max=2) as server:
        busy = [server.connect() for _ in range(2)]
        for client in busy:
            client.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
        until(lambda: server.app.entered == 2)
        assert server.connect().rest() == b""
        assert server.refused("connections_per_address_max") == 1
        other = [server.connect("127.0.0.2") for _ in range(2)]
        assert [client.get() for client in other] == [(200, b"hello")] * 2
        server.open_gate()
        assert [client.response() for client in busy] == [(200, b"waited")] * 2
        # Now one of its own makes room, and none of another address.
        assert server.connect().get() == (200, b"hello")
        assert busy[0].rest() == b""
        assert [client.get() for client in other] == [(200, b"hello")] * 2


def test_a_unix_socket_has_no_addresses_and_names_the_peer(loop: str, socket_dir: Path) -> None:
    path = socket_dir / "c.sock"
    with running(
        loop, listening=bind_unix_socket(path), path=str(path), name="unix", connections_per_address_max=1
    ) as server:
        clients = [server.connect() for _ in range(5)]
        assert [client.get() for client in clients] == [(200, b"hello")] * 5
        assert server.connections("unix") == 5
        assert server.app.states == [{"peer_uid": path.stat().st_uid}] * 5


def test_descriptors_are_reserved_for_the_unix_socket(
    loop: str, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = socket_dir / "c.sock"
    with socket.socket() as probe:
        # The lowest free descriptor: of those from here on, TCP may have none.
        used = probe.fileno()
    monkeypatch.setattr(http_server, "descriptor_shares", lambda: DescriptorShares(used, used + 1_000))
    unix = running(loop, listening=bind_unix_socket(path), path=str(path), name="unix")
    with running(loop) as tcp, unix as local:
        for _ in range(3):
            assert tcp.connect().rest() == b""
        assert tcp.refused("descriptors") == 3
        assert local.connect().get() == (200, b"hello")


def test_without_descriptors_the_listener_waits_and_goes_on(loop: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with capture_logs() as logs, running(loop) as server:
        idle = server.connect()
        assert idle.get() == (200, b"hello")
        waiting = [socket.socket() for _ in range(3)]
        server.clients += waiting
        with socket.socket() as probe:
            used = probe.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        try:
            for client in waiting:
                client.connect(server.address)
                client.sendall(GET)
            # One after the other: each takes the place of the one before.
            assert [Client(client).response() for client in waiting] == [(200, b"hello")] * 3
            assert idle.rest() == b""
            # Not as often as the loop turns.
            assert 0 < server.refused("descriptors") < 100
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert server.connect().get() == (200, b"hello")
    assert [entry["event"] for entry in logs].count("no_descriptors") == 1


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("tls")
    files = TlsFiles(folder / "server.pem", folder / "server.key")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    outputs = ["-keyout", str(files.key), "-out", str(files.certificate)]
    subprocess.run([*command.split(), *outputs], check=True, capture_output=True)
    return files


def tls_client(server: Running) -> Client:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    secured = context.wrap_socket(server.connect().socket)
    server.clients.append(secured)
    return Client(secured)


def test_a_handshake_that_does_not_end_is_ended(loop: str, tls_files: TlsFiles) -> None:
    with running(loop, tls=tls_files, handshake_ms_max=300) as server:
        silent, half, other = (server.connect() for _ in range(3))
        half.send(b"\x16\x03\x01\x02\x00\x01\x00")
        other.send(GET)
        assert silent.rest() == half.rest() == b""
        other.rest()
        until(lambda: server.ended("tls_handshake") == 3)


def test_who_is_in_the_middle_of_a_handshake_counts_and_makes_room(loop: str, tls_files: TlsFiles) -> None:
    with running(loop, tls=tls_files, connections_max=3, handshake_ms_max=600_000) as server:
        held = [server.connect() for _ in range(3)]
        until(lambda: server.connections() == 3)
        good = tls_client(server)
        assert good.get() == (200, b"hello")
        assert held[0].rest() == b""
        assert server.ended("displaced") == 1
        assert server.connections() == 3


@pytest.mark.parametrize("limit", ["head", "idle", "body", "write"])
def test_times_are_limited_under_tls(loop: str, tls_files: TlsFiles, limit: str) -> None:
    requests = {
        "head": START,
        "idle": GET,
        "body": b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx",
        "write": b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n",
    }
    limits: dict[str, Any] = {f"{limit}_ms_max": 300}
    with running(loop, tls=tls_files, **limits) as server:
        client = tls_client(server)
        client.send(requests[limit])
        until(lambda: server.ended(f"{limit}_time") == 1)
        client.socket.close()
        until(lambda: server.connections() == 0)


def test_a_refusal_arrives_under_tls(loop: str, tls_files: TlsFiles) -> None:
    with running(loop, tls=tls_files) as server:
        client = tls_client(server)
        client.send(START + b"a: b\r\n" * 20_000)
        assert client.response()[0] == 431


def test_a_long_body_that_is_answered_early_may_arrive_under_tls(loop: str, tls_files: TlsFiles) -> None:
    with running(loop, tls=tls_files) as server:
        client = tls_client(server)
        client.send(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % MIB + b"x" * MIB + GET)
        assert client.response() == (401, b"{}")
        assert client.response() == (200, b"hello")
