-- The audit log: records, late enrichment, dead letters, API tokens, and the two roles that touch them.

CREATE SCHEMA auditap;
REVOKE ALL ON SCHEMA auditap FROM PUBLIC;

-- One row per action, written once and never updated. The id's milliseconds are the action's time, so the day
-- (and with it the partition) follows from the id.
CREATE TABLE auditap.audit_records (
    id uuid NOT NULL,
    account_id text,
    account_name text,
    action_description text,
    action_result text NOT NULL,
    action_type text NOT NULL,
    actor_id text,
    actor_context text,
    actor_email text,
    actor_ip_address inet,
    actor_token_id text,
    actor_token_name text,
    actor_type text,
    raw_cf_ray_id text,
    raw_method text,
    raw_status_code smallint,
    raw_uri text,
    raw_user_agent text,
    resource_id text,
    resource_product text,
    -- json, not jsonb: jsonb refuses \u0000 and large exponents and rewrites numbers.
    resource_request json,
    resource_response json,
    resource_scope text,
    resource_type text,
    zone_id text,
    zone_name text,
    receipt json NOT NULL,
    operation_id text,
    tap_id text,
    tap_epoch bigint,
    tap_seq bigint,
    received_ms bigint NOT NULL,
    event_digest bytea NOT NULL,
    enrichment text NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX audit_records_account ON auditap.audit_records (account_id, id);
-- Small: it holds only what a later pass has to complete.
CREATE INDEX audit_records_partial ON auditap.audit_records (id) WHERE enrichment = 'partial';

-- What enrichment found out after the record was stored. account_id is set only where the record has none.
CREATE TABLE auditap.audit_enrichments (
    id uuid NOT NULL,
    account_id text,
    account_name text,
    zone_name text,
    actor_email text,
    actor_token_name text,
    state text NOT NULL,
    completed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX audit_enrichments_account ON auditap.audit_enrichments (account_id, id) WHERE account_id IS NOT NULL;

-- The record as it is known now.
CREATE VIEW auditap.audit_log AS
SELECT
    r.id,
    coalesce(r.account_id, e.account_id) AS account_id,
    coalesce(r.account_name, e.account_name) AS account_name,
    r.action_description, r.action_result, r.action_type,
    r.actor_id, r.actor_context,
    coalesce(r.actor_email, e.actor_email) AS actor_email,
    r.actor_ip_address, r.actor_token_id,
    coalesce(r.actor_token_name, e.actor_token_name) AS actor_token_name,
    r.actor_type,
    r.raw_cf_ray_id, r.raw_method, r.raw_status_code, r.raw_uri, r.raw_user_agent,
    r.resource_id, r.resource_product, r.resource_request, r.resource_response, r.resource_scope, r.resource_type,
    r.zone_id,
    coalesce(r.zone_name, e.zone_name) AS zone_name,
    r.receipt, r.operation_id, r.tap_id, r.tap_epoch, r.tap_seq, r.received_ms,
    coalesce(e.state, r.enrichment) AS enrichment
FROM auditap.audit_records AS r
LEFT JOIN auditap.audit_enrichments AS e ON e.id = r.id;

-- Events that can never become records; already redacted, as everything on the log is.
CREATE TABLE auditap.dead_letters (
    source_log text NOT NULL,
    source_partition integer NOT NULL,
    source_offset bigint NOT NULL,
    reason text NOT NULL,
    path text NOT NULL,
    event_id uuid,
    event bytea NOT NULL,
    received_ms bigint NOT NULL,
    buried_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_log, source_partition, source_offset)
);

-- Tokens of the log API, hashed. accounts NULL: every account.
CREATE TABLE auditap.api_tokens (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    token_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(token_sha256) = 32),
    name text NOT NULL,
    accounts text[],
    permissions text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);

-- The lowest uuid of a millisecond: the bound of ranges, itself no valid id.
CREATE FUNCTION auditap.first_id_at(at_ms bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT (lpad(to_hex(at_ms), 12, '0') || repeat('0', 20))::uuid $$;

-- Makes the daily partitions (UTC) of records and enrichments between two times, both included; returns how many
-- were made. Built beside the table and attached, which blocks no writer. The bound on the days keeps a role
-- that may only insert from filling the catalogue.
CREATE FUNCTION auditap.ensure_partitions(from_ms bigint, to_ms bigint) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    day_ms CONSTANT bigint := 86400000;
    now_ms CONSTANT bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    start_ms bigint := from_ms - from_ms % day_ms;
    made integer := 0;
    parent text;
    child text;
BEGIN
    IF from_ms < 0 OR from_ms < now_ms - 3660 * day_ms OR to_ms > now_ms + 366 * day_ms THEN
        RAISE EXCEPTION 'partitions can be made from 3660 days ago to 366 days ahead' USING ERRCODE = '22003';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('auditap.ensure_partitions'));
    WHILE start_ms <= to_ms LOOP
        FOREACH parent IN ARRAY ARRAY['audit_records', 'audit_enrichments'] LOOP
            child := parent || to_char(to_timestamp(start_ms / 1000) AT TIME ZONE 'UTC', '"_"YYYYMMDD');
            IF to_regclass('auditap.' || child) IS NULL THEN
                EXECUTE format('CREATE TABLE auditap.%I (LIKE auditap.%I INCLUDING ALL)', child, parent);
                EXECUTE format(
                    'ALTER TABLE auditap.%I ATTACH PARTITION auditap.%I FOR VALUES FROM (%L) TO (%L)',
                    parent, child, auditap.first_id_at(start_ms), auditap.first_id_at(start_ms + day_ms)
                );
                made := made + 1;
            END IF;
        END LOOP;
        start_ms := start_ms + day_ms;
    END LOOP;
    RETURN made;
END
$$;
REVOKE ALL ON FUNCTION auditap.ensure_partitions(bigint, bigint) FROM PUBLIC;

-- Roles belong to the whole cluster, so another database of it may have made them already.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['auditap_writer', 'auditap_reader'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO auditap_writer', current_database());
END
$$;

GRANT USAGE ON SCHEMA auditap TO auditap_writer, auditap_reader;

-- The writer may add and never change, delete or read back what was recorded: of the columns it sees the ids and
-- names that completing a record needs, and the digest that tells a repeat from a conflict.
GRANT INSERT ON auditap.audit_records, auditap.audit_enrichments, auditap.dead_letters TO auditap_writer;
GRANT SELECT (
    id, event_digest, enrichment, account_id, account_name, zone_id, zone_name,
    actor_id, actor_type, actor_email, actor_token_id, actor_token_name
) ON auditap.audit_records TO auditap_writer;
GRANT SELECT (id) ON auditap.audit_enrichments TO auditap_writer;
GRANT EXECUTE ON FUNCTION auditap.ensure_partitions(bigint, bigint) TO auditap_writer;

GRANT SELECT ON auditap.audit_log, auditap.audit_records, auditap.audit_enrichments, auditap.api_tokens
TO auditap_reader;
