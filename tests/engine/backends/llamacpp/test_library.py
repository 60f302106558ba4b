"""Opening llama.cpp where it is not installed."""

from __future__ import annotations

import sys

import pytest

from services.engine.backends.llamacpp.library import load_library
from services.shared.errors import ModelLoadFailed


def test_without_the_binding_a_load_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)

    with pytest.raises(ModelLoadFailed, match="llama-cpp-python is not installed here"):
        load_library.__wrapped__()
