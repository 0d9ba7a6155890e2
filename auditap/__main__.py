"""`python -m auditap`."""

from auditap.cli import main

main()
