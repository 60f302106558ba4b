"""Read the JSON files of an MLX model, with a size limit and in their known variants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from services.puller.formats.chat_template import extract_jinja
from services.shared.errors import InvalidModelFile

_MAX_JSON_BYTES = 64 << 20  # Gemma's tokenizer.json has 33 MB
_TOKEN_ID = re.compile(r"[0-9]{1,9}")


class MlxFolder:
    """The files of a model by relative path. No other file is read."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self.config = self.json("config.json") or {}
        self.tokenizer_config = self.json("tokenizer_config.json") or {}

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object, or None if there is no such file."""
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
        """The safetensors files that mlx-lm loads, by path."""
        return {n: p for n, p in sorted(self._files.items()) if n.endswith(".safetensors")}

    def paths(self) -> tuple[str, ...]:
        """The paths of all files."""
        return tuple(self._files)

    def chat_template(self) -> str | None:
        """The template of chat_template.jinja, chat_template.json or tokenizer_config.json."""
        if (text := self.text("chat_template.jinja")) is not None:
            return extract_jinja(text)
        own = (self.json("chat_template.json") or {}).get("chat_template")
        return extract_jinja(own) or extract_jinja(self.tokenizer_config.get("chat_template"))

    def added_tokens(self) -> dict[int, tuple[str, bool]]:
        """The tokens beyond the base vocabulary, by id: text, and whether it is a control token."""
        tokenizer = self.json("tokenizer.json") or {}
        found: dict[int, tuple[str, bool]] = {}
        for token in _objects(tokenizer.get("added_tokens")):
            if isinstance(token.get("id"), int):
                found[token["id"]] = (str(token.get("content", "")), bool(token.get("special")))
        decoder = self.tokenizer_config.get("added_tokens_decoder")
        for index, token in decoder.items() if isinstance(decoder, dict) else ():
            if _TOKEN_ID.fullmatch(index) and isinstance(token, dict):
                found[int(index)] = (str(token.get("content", "")), bool(token.get("special")))
        return found

    def special_token(self, name: str) -> str | None:
        """`bos_token` or `eos_token`, which is a string or an object with one."""
        value = self.tokenizer_config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) and value else None

    def eos_ids(self) -> set[int]:
        """The ids that end an answer; generation_config.json has precedence, as in mlx-lm."""
        generation = self.json("generation_config.json") or {}
        value = generation.get("eos_token_id", self.text_config.get("eos_token_id"))
        values = value if isinstance(value, list) else [value]
        return {v for v in values if isinstance(v, int)}

    @property
    def text_config(self) -> dict[str, Any]:
        """The configuration of the text model, which multimodal models nest."""
        text = self.config.get("text_config")
        return text if isinstance(text, dict) else self.config

    def integer(self, name: str) -> int | None:
        """An integer of the text model's configuration, or None."""
        value = self.text_config.get(name, self.config.get(name))
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
