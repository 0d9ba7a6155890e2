"""Ids of taps whose captures make a collector fail that was started with the faults loaded."""

REDACTOR = "fault-redactor"
SINK = "fault-sink"
ENDPOINT = "fault-endpoint"
CALLBACK = "fault-callback"
