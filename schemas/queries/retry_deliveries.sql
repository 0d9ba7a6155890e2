-- Makes deliveries due again, counting attempts anew. $1 state, $2 alerts, $3 channels (NULL: any); $4: of windows from this time
-- on (Unix ms).
UPDATE auditap.alert_deliveries SET state = 'due', attempts = 0, due_at = now()
WHERE state = $1 AND ($2::uuid[] IS NULL OR alert_id = ANY ($2))
    AND ($3::text[] IS NULL OR channel = ANY ($3)) AND alert_id >= auditap.first_id_at($4)
RETURNING alert_id
