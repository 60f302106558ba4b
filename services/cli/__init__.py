"""`spindll`: runs the stack without Docker, and is a client of the API.

    app.py         the commands and their options; no work
    commands/      one file a command or a few that belong together
    supervise/     what `up` runs: redis, engine, puller and api as child processes
    install/       what `./spindll` runs before there is a .venv; standard library only
    api_client.py  talks HTTP to a stack; connection.py finds it and its key

`--help` and `status` must be quick: modules import httpx, rich and psutil where they use them.
"""
