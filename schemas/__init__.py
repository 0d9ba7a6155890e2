"""The contracts: JSON Schemas, the types that mirror them, identity, errors, metrics and SQL.

Imports nothing else of auditap, so that every part can import it.
"""
