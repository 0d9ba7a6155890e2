"""The example API that `auditap up` shows: its document, the service, a directory of names, and traffic."""
