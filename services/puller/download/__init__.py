"""One verified file from a server: ranges in parallel, resumed, throttled, retried."""
