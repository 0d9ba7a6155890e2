-- What the log API's filters read, and what its tokens can say.

-- The history of one resource, exact and in order. Hashes, not texts: 32 bytes an entry whatever the ids are.
CREATE INDEX audit_records_resource ON auditap.audit_records (
    (hashtextextended(account_id, hashtextextended(resource_id, 0))), id
);

-- Where a value of a filter can stand at all: a Bloom filter for each 32 pages, made when the range is full and vacuumed,
-- so that storing a row costs next to nothing. Hashed with the account where many accounts share the values. The id is
-- among them because rows lie in its order, and only that tells the planner how little of the table is read.
CREATE INDEX audit_records_filters ON auditap.audit_records USING brin (
    id,
    (hashtextextended(account_id, hashtextextended(actor_id, 0))) int8_bloom_ops (n_distinct_per_range = 400),
    actor_email text_bloom_ops (n_distinct_per_range = 400),
    (hashtextextended(account_id, hashtextextended(action_type, 0))) int8_bloom_ops (n_distinct_per_range = 400),
    (hashtextextended(account_id, hashtextextended(resource_type, 0))) int8_bloom_ops (n_distinct_per_range = 400),
    (hashtextextended(account_id, hashtextextended(resource_product, 0))) int8_bloom_ops (n_distinct_per_range = 400),
    (hashtextextended(account_id, hashtextextended(zone_id, 0))) int8_bloom_ops (n_distinct_per_range = 400),
    (hashtextextended(account_id, hashtextextended(raw_cf_ray_id, 0)))
        int8_bloom_ops (n_distinct_per_range = 400, false_positive_rate = 0.001)
) WITH (pages_per_range = 32);

CREATE INDEX audit_enrichments_filters ON auditap.audit_enrichments USING brin (
    id,
    actor_email text_bloom_ops (n_distinct_per_range = 400)
) WITH (pages_per_range = 32);

-- Logins are few among all that is recorded.
CREATE INDEX audit_records_access ON auditap.audit_records (account_id, id) WHERE resource_product = 'access';

-- email: whose token it is; with it the token works as X-Auth-Key, and the user's own view has a user.
-- requests_per_s: this token's own rate; NULL: the one that is configured.
ALTER TABLE auditap.api_tokens
    ADD COLUMN email text,
    ADD COLUMN requests_per_s real CHECK (requests_per_s > 0);
