"""Runs the stack without Docker: Redis, engine, puller and api as child processes.

up ─► supervisor ─┬─ redis ◄── ready first: the others need it
   │              ├─ engine ┐
   │              ├─ puller ├─ started together
   │              └─ api    ┘
   └─ guard       ends them all when the supervisor is killed

machine.py     pure: which service is started, ended or given up, and when
stack.py       pure: the commands and environments of the four services
processes.py   starts and signals processes
probes.py      asks a service whether it is ready
supervisor.py  the loop between those
"""
