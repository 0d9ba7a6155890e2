-- Which records wait for enrichment, as a table of work: an ingestor notes a partial record in the transaction that stores
-- it, and takes the note away in the transaction that stores what was found out. Asking for what is left to do then
-- costs what is left to do, however much was completed before.
CREATE TABLE auditap.partial_records (
    id uuid PRIMARY KEY
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

INSERT INTO auditap.partial_records (id)
SELECT r.id
FROM auditap.audit_records AS r
WHERE r.enrichment = 'partial' AND NOT EXISTS (SELECT FROM auditap.audit_enrichments AS e WHERE e.id = r.id);

DROP INDEX auditap.audit_records_partial;

-- UPDATE is what locking a row needs: ingestors pass over what another one works on.
GRANT SELECT, INSERT, UPDATE, DELETE ON auditap.partial_records TO auditap_writer;
