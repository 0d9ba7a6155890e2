-- Let the notes $1 of partial records wait, each time for longer. Notes that are not due stay as they are.
SELECT auditap.postpone_partial($1)
