"""The messages between engine front and runner: msgpack frames over a socket pair.

    commands  what the front sends
    reports   what the runner sends
    frames    how one of them is written to the socket

The first command is `Start`. The first reports are any number of `Progress`, then `Ready` or
`LoadFailed`. After each step the runner sends one `StepReport` with all events of the step. It
sends a `Heartbeat` every HEARTBEAT_SECONDS, from a thread of its own, with the time that the
current step has taken so far: with that the front distinguishes a busy runner from a stuck one.
"""
