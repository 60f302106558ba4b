"""How a Lark grammar of llguidance names the special tokens of a vocabulary.

The engine gives its tokens these names, and the api refers to them. llguidance reads a name between
`<` and `>` without white space, which is the text of most special tokens. Another text is quoted as
in a URL: `[TOOL_CALLS]` is `<%5BTOOL_CALLS%5D>`.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

_PLAIN = re.compile(r"<(?![%\[])[^<>\s]+>")


def name_token(text: str) -> str:
    """The name of the special token with this text."""
    return text if _PLAIN.fullmatch(text) else f"<{quote(text, safe='')}>"


def read_token_name(name: str) -> str:
    """The text of the token with this name."""
    return name if _PLAIN.fullmatch(name) else unquote(name[1:-1])
