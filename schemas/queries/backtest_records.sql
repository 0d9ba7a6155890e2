-- Stored records of a time in order, with what enrichment found since. $1, $2: ids from, before; $3 account (NULL: all).
SELECT id, account_id, account_name, action_description, action_result, action_type, actor_id, actor_context, actor_email,
    actor_ip_address, actor_token_id, actor_token_name, actor_type, raw_cf_ray_id, raw_method, raw_status_code, raw_uri,
    raw_user_agent, resource_id, resource_product, resource_request, resource_response, resource_scope, resource_type,
    zone_id, zone_name, receipt, operation_id, tap_id, tap_epoch, tap_seq, received_ms, enrichment,
    clamped_from_ms
FROM auditap.audit_log
WHERE id >= $1 AND id < $2 AND ($3::text IS NULL OR account_id = $3)
ORDER BY id
