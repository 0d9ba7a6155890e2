"""What the parts share: contracts as JSON Schemas, the types that mirror them, identity, errors, metrics and SQL.

The package imports no other part of auditap, so every part can import it.
"""
