"""The tap for ASGI and WSGI applications: it copies each request/response pair and sends the copies to the collector.

    from auditap_tap import AuditTapMiddleware       # AuditTapWSGIMiddleware for WSGI

    app = AuditTapMiddleware(app, collector="unix:/run/auditap/collector.sock", tap_id="orders-api")

This package runs inside other people's services. It needs the standard library alone, and imports its own modules
relatively, so that the folder can be copied into a project under any name. Its first rule is that the user of the service
never notices it:

- A request waits for nothing but the application's own calls. Encoding and sending happen in a thread.
- Every buffer is bounded. A pair that does not fit is dropped and counted.
- A failure of the tap is swallowed and counted. Nothing of a pair is ever logged.

Every request gets a sequence number when it begins, so that a missing one can be named. Heartbeats report the
highest number, and which numbers are pending or were dropped. A state file keeps the highest number, so that
after a crash the next run can report how far the crashed one came.

    middleware  settings, and the run that a middleware belongs to
    asgi, wsgi  the middlewares
    exchange    one ASGI request: observes what passes between server and application
    lifespan    answers the server where the application does not
    capture     what is copied of a pair, and how much
    buffer      the pairs that wait for the sender, bounded in bytes
    sequence    sequence numbers: assigned, pending, dropped
    state_file  the files in which runs keep their highest sequence number
    run         one run of the tap in one process: joins the parts, owns the thread
    sender      batches: encode, send, retry, drop
    encoding    a pair as one line of NDJSON
    heartbeat   what a run, and the crashed runs before it, report
    client      HTTP to the collector, over a Unix socket or TCP
"""

from __future__ import annotations

from .asgi import AuditTapMiddleware
from .buffer import TapStats
from .config import METHODS_WITHOUT_BODIES, REQUEST_HEADERS, RESPONSE_HEADERS
from .wsgi import AuditTapWSGIMiddleware

__all__ = [
    "METHODS_WITHOUT_BODIES",
    "REQUEST_HEADERS",
    "RESPONSE_HEADERS",
    "AuditTapMiddleware",
    "AuditTapWSGIMiddleware",
    "TapStats",
]
