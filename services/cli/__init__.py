"""The `spindll` command: runs the stack without Docker, and is a client of the API.

    app.py         the commands and their options
    commands/      the code of each command; one file may hold a few related commands
    supervise/     the code of `up`: runs redis, engine, puller and api as child processes
    install/       makes .venv before a command can run; standard library only
    api_client.py  HTTP requests to a stack; connection.py finds the stack and an API key

`--help` must be fast, so app.py imports the module of a command only when that command runs.
"""
