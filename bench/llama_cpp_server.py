"""`python -m llama_cpp.server`, its compute modules registered first.

A build of llama.cpp that ships its CPU variants apart loads no model until somebody registers them,
and the binding does not; so this peer would not start beside us. Nothing else is different.
"""

from __future__ import annotations

from services.engine.backends.llamacpp import library


def main() -> None:
    library.load_library()
    from llama_cpp.server.__main__ import main as serve

    serve()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
