"""Download one file from a server: parallel ranges, resumed, throttled, retried and verified."""
