"""`python -m auditap`."""

from auditap.cli.main import main

main()
