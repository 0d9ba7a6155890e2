"""Formats in which pairs arrive, one module each: bytes into captures, without I/O and without a clock.

- `port`: what a format is
- `own`: auditap's own format, `schemas/capture.schema.json`
- `routes`: which format each of the collector's routes takes
"""
