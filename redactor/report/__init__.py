"""What `auditap lint` and `auditap explain` show of a document and of its plans. No pair passes here.

Read `schema_tree` (the positions of a schema, each with a decision) and `operation_fields` first, then `lint` with its
checks, `coverage` and `explain`.
"""
