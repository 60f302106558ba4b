"""Run the stack without Docker: Redis, engine, puller and api as child processes.

up ─► supervisor ─┬─ redis ◄── ready first: the others need it
   │              ├─ engine ┐
   │              ├─ puller ├─ started together
   │              └─ api    ┘
   └─ guard       ends all services when the supervisor is killed

__main__.py          the detached supervisor
launch.py            the checks before a start, then the supervisor, here or detached
supervisor.py        the loop that runs the services
state_machine.py     pure: which service to start, end or give up, and when
stack.py             the commands and environments of the four services
redis_server.py      the command of Redis
processes.py         starts and signals processes
process_sessions.py  ends a service with all processes that it started
guard.py             ends all services when the supervisor is killed
logfiles.py          the logs of the services: opened, rotated, read
reporting.py         reports the progress of a start to `up`
state_file.py        publishes the state of the stack to other commands; the lock of a stack
checks/              before a start, while a service starts, after a failure
"""
