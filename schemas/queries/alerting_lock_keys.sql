-- Locks keys until this transaction ends. $1: numbers of locks, acquired in order, so that no two transactions deadlock.
SELECT pg_advisory_xact_lock(1635083369, number) FROM (SELECT number FROM unnest($1::integer[]) AS number ORDER BY number) AS ordered;
