-- How many dead letters wait for a decision, for whoever may not read them.

CREATE INDEX dead_letters_open_reason ON auditap.dead_letters (reason) WHERE state = 'open';

-- For each of the reasons how many letters are open, counted as far as letters_max.
CREATE FUNCTION auditap.open_letters(reasons text[], letters_max bigint)
RETURNS TABLE (reason text, letters bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT asked.reason, found.letters
    FROM unnest(reasons) AS asked (reason)
    CROSS JOIN LATERAL (
        SELECT count(*) AS letters FROM (
            SELECT FROM auditap.dead_letters AS letter
            WHERE letter.state = 'open' AND letter.reason = asked.reason
            LIMIT letters_max
        ) AS counted
    ) AS found
$$;
REVOKE EXECUTE ON FUNCTION auditap.open_letters(text[], bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.open_letters(text[], bigint) TO auditap_writer;
