-- Move the staged rows into the log; rows whose id is there already stay out. The order by id is what keeps
-- sessions with overlapping batches from deadlocking.
INSERT INTO auditap.audit_records (
    id, account_id, account_name, action_description, action_result, action_type,
    actor_id, actor_context, actor_email, actor_ip_address, actor_token_id, actor_token_name, actor_type,
    raw_cf_ray_id, raw_method, raw_status_code, raw_uri, raw_user_agent,
    resource_id, resource_product, resource_request, resource_response, resource_scope, resource_type,
    zone_id, zone_name, receipt, operation_id, tap_id, tap_epoch, tap_seq, received_ms, event_digest, enrichment,
    clamped_from_ms
)
SELECT
    id, account_id, account_name, action_description, action_result, action_type,
    actor_id, actor_context, actor_email, actor_ip_address, actor_token_id, actor_token_name, actor_type,
    raw_cf_ray_id, raw_method, raw_status_code, raw_uri, raw_user_agent,
    resource_id, resource_product, resource_request, resource_response, resource_scope, resource_type,
    zone_id, zone_name, receipt, operation_id, tap_id, tap_epoch, tap_seq, received_ms, event_digest, enrichment,
    clamped_from_ms
FROM staging
ORDER BY id
ON CONFLICT DO NOTHING
