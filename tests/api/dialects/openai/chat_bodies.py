"""Chats as clients send them, for tests of what they become."""

from __future__ import annotations

import json
from typing import Any

from services.api.access.keys import Role
from services.api.access.principal import Principal
from services.api.dialects.openai.schemas.chat_schema import ChatCompletionRequest

PRINCIPAL = Principal(id="key_1", role=Role.USER, name="user")


def make_request(**changes: Any) -> ChatCompletionRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **changes}
    return ChatCompletionRequest.model_validate_json(json.dumps(body))
