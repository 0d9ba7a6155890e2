"""The OpenAPI document as it was read, before anything is decided about traffic.

Read in this order: `document` (loading, `$ref`, findings), `marks` (what a node's own keywords grant or deny),
`operations` (paths, methods and servers), `routes` (matching a request to operations; `route_automaton` is its fast
form).
"""
