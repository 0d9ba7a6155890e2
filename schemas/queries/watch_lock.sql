-- Keeps other watchers from judging the same places until this transaction ends. $1: numbers of locks, always in order.
SELECT pg_advisory_xact_lock(1635083369, number) FROM (SELECT number FROM unnest($1::integer[]) AS number ORDER BY number) AS ordered;
