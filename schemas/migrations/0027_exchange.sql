-- What no document can mark of a pair, where the operator lets it leave: which host was asked, for how long, and how much was sent.

-- Changes nothing, and waits until nobody reads the view: whoever does locks it before its table.
ALTER VIEW auditap.audit_log RESET (security_barrier);

-- NULL: not known, or not recorded. Without a default, so that no stored row is written again.
ALTER TABLE auditap.audit_records
    ADD COLUMN exchange_host text,
    ADD COLUMN exchange_duration_ms integer,
    ADD COLUMN exchange_response_bytes bigint;

CREATE OR REPLACE VIEW auditap.audit_log AS
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
    coalesce(e.state, r.enrichment) AS enrichment,
    r.clamped_from_ms,
    r.exchange_host, r.exchange_duration_ms, r.exchange_response_bytes
FROM auditap.audit_records AS r
LEFT JOIN auditap.audit_enrichments AS e ON e.id = r.id;
