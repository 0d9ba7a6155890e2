-- The number of dead letters that match, and the highest number among them. Slot (constant text only): chosen.
SELECT count(*) AS dead_letters, max(number) AS last
FROM auditap.dead_letters
WHERE {chosen}
