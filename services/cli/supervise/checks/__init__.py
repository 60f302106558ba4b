"""Checks around a start.

preflight.py  before it: is a port free, is there space on the disk
probes.py     while a service starts: whether it is ready
diagnose.py   pure: the reason for a failed start, from the log of the service
"""
