-- Note which of the staged records are partial.
INSERT INTO auditap.partial_records (id)
SELECT id FROM staging WHERE enrichment = 'partial'
ORDER BY id
ON CONFLICT DO NOTHING
