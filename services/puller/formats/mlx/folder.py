"""The JSON files of an MLX model, read with bounds and in the few shapes they come in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from services.puller.formats.chat_template import jinja_source
from services.shared.errors import InvalidModelFile

_MAX_JSON_BYTES = 64 << 20  # Gemma's tokenizer.json has 33 MB


class MlxFolder:
    """Files by their relative path; looks only at those it is given."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self.config = self.json("config.json") or {}
        self.tokenizer_config = self.json("tokenizer_config.json") or {}

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object, or None where there is no such file."""
        data = self._read(name)
        if data is None:
            return None
        try:
            value = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidModelFile(f"{name} is not valid JSON") from error
        if not isinstance(value, dict):
            raise InvalidModelFile(f"{name} is not a JSON object")
        return value

    def text(self, name: str) -> str | None:
        """A text file, or None."""
        data = self._read(name)
        return None if data is None else data.decode(errors="replace")

    def weights(self) -> dict[str, Path]:
        """The safetensors files mlx-lm loads, by path."""
        return {n: p for n, p in sorted(self._files.items()) if n.endswith(".safetensors")}

    def paths(self) -> tuple[str, ...]:
        """Every file's path."""
        return tuple(self._files)

    def chat_template(self) -> str | None:
        """From chat_template.jinja, else chat_template.json, else tokenizer_config.json."""
        if (text := self.text("chat_template.jinja")) is not None:
            return jinja_source(text)
        own = (self.json("chat_template.json") or {}).get("chat_template")
        return jinja_source(own) or jinja_source(self.tokenizer_config.get("chat_template"))

    def added_tokens(self) -> dict[int, tuple[str, bool]]:
        """Tokens beyond the plain vocabulary: (text, is a control token) by id."""
        tokenizer = self.json("tokenizer.json") or {}
        found: dict[int, tuple[str, bool]] = {}
        for token in _objects(tokenizer.get("added_tokens")):
            if isinstance(token.get("id"), int):
                found[token["id"]] = (str(token.get("content", "")), bool(token.get("special")))
        decoder = self.tokenizer_config.get("added_tokens_decoder")
        for index, token in decoder.items() if isinstance(decoder, dict) else ():
            if str(index).isdecimal() and isinstance(token, dict):
                found[int(index)] = (str(token.get("content", "")), bool(token.get("special")))
        return found

    def special_token(self, name: str) -> str | None:
        """`bos_token` or `eos_token`, which is a text or an object with one."""
        value = self.tokenizer_config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) and value else None

    def eos_ids(self) -> set[int]:
        """What ends an answer; generation_config.json wins, as in mlx-lm."""
        generation = self.json("generation_config.json") or {}
        value = generation.get("eos_token_id", self.number_source.get("eos_token_id"))
        values = value if isinstance(value, list) else [value]
        return {v for v in values if isinstance(v, int)}

    @property
    def number_source(self) -> dict[str, Any]:
        """Where the text model's numbers stand: multimodal configs nest them."""
        text = self.config.get("text_config")
        return text if isinstance(text, dict) else self.config

    def integer(self, name: str) -> int | None:
        """A number of the text model, or None."""
        value = self.number_source.get(name, self.config.get(name))
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def _read(self, name: str) -> bytes | None:
        path = self._files.get(name)
        if path is None:
            return None
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise InvalidModelFile(f"{name} is larger than any real one")
        return path.read_bytes()


def _objects(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []
