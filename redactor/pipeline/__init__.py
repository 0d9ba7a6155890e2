"""A captured pair and a compiled operation become an audit event.

Read `redactor` (the public face) and `pipeline` (the stages in their order), then the stages: `headers`, `routing`,
`bodies`, `uris` and `events`. Each but the last has a fast path beside the reference that defines its result.
"""
