"""Formats in which pairs arrive, one module each: bytes into captures, without I/O and without a clock.

- `port`: what a format is
- `own`: auditap's own format, `schemas/capture.schema.json`
- `kong`, `apisix`: log entries of gateways on nginx (`nginx_log`)
- `tyk`: events for Splunk's HTTP Event Collector, with messages as they were on the wire (`http_wire`)
- `har`, `mitmproxy`: files of other tools (`tnetstrings`), found by how they begin (`recognition`)
- `messages`: captures out of what formats know of a pair
- `contracts`: JSON texts by a type, refused without their values
- `routes`: which format each of the collector's routes takes
"""
