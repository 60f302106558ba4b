"""The services of the appliance, one folder each.

    clients ──HTTP, gRPC──► api ──gRPC engine.proto──► engine front ──pipe──► runner (one per model)
                             │                            │
                             └──────────► Redis ◄─────────┘◄── puller (RQ worker)

    shared/   the little that two services must agree on; imports no service
    api/      speaks to people: dialects, keys, templates, jobs; never loads weights
    engine/   the front plans memory and owns runners; a runner owns one model's context
    puller/   turns "please fetch X" into verified blobs plus a manifest
    cli/      `spindll`: runs the stack without Docker, and talks to the API

Import rule: a service imports `services.shared` and `protos`, never another service.
`import-linter` checks it (`make check`).
"""

__version__ = "0.1.0"
