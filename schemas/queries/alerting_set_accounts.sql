-- Gives alerts without an account the one that enrichment found for their record since. $1: most alerts.
SELECT auditap.set_alert_accounts($1);
