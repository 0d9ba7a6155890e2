"""The redactor decides what of a captured request/response pair may leave the gateway's host.

Rooms, in reading order; each builds only on the ones before it: `decode` (bytes and text of a capture), `openapi` (the
document), `compile` (the document and the configuration become a compiled operation, made of plans), `pipeline` (a
pair and a compiled operation become an event), `report` (lint, explain, coverage). `config` is what an operator sets.
"""
