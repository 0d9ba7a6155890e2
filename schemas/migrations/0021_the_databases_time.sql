-- Whoever compares its clock with the database's asks for the time by which the functions go.
GRANT EXECUTE ON FUNCTION auditap.now_ms() TO auditap_writer;
