"""The services of the appliance, one folder per service.

    clients ──HTTP, gRPC──► api ──gRPC engine.proto──► engine front ──pipe──► runner (one per model)
                             │
                             └──────────► Redis ◄────────── puller (RQ worker)

    shared/   code that two or more services need; imports no service
    api/      serves clients: API dialects, keys, chat templates, pull jobs; loads no weights
    engine/   the front plans memory and owns runners; a runner holds one loaded model
    puller/   downloads a model and stores it as verified blobs and a manifest
    cli/      the `spindll` command: runs the stack without Docker, and is a client of the API

Import rule: a service imports `services.shared` and `protos`, but no other service.
`import-linter` checks the rule (`make check`).
"""

__version__ = "0.1.0"
