"""The bytes and text of a capture, decoded once and refused where readers might differ. Nothing here knows a schema.

A capture itself is decoded from its line by `schemas.capture`. From then on: `url` (host, path, query), `headers`,
`media_types` (which bodies are read), `content_encodings` (gzip and the like; a new one is added there), then by media
type `json`, `urlencoded` or `multipart`.
"""
