-- The writer's sessions plan each statement anew, for the sake of the partitions; what this function asks, once a batch,
-- touches none, and planning it took two thirds of its time.
ALTER FUNCTION auditap.note_numbers(text[], bigint[], text[], bigint[], bigint[], bigint[])
SET plan_cache_mode = 'force_generic_plan';
