"""From the OpenAPI document to compiled operations: every decision about marks and denials is made here.

Read in this order: `plan` (the result: what lets values through), `schema_constraints`, `applicable_schemas` and
`schema_collector` (which schemas apply to a value), `effective_marks` (which of their marks count), `compiler` with
`container_parts`, `maps` and `tagged_unions` (from schemas to plans), then `compiled_operation` with `path_plan`,
`query_plan`, `form_encoding` and `derived_fields`.
"""
