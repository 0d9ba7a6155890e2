module auditap

go 1.22
