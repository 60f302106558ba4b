"""What a client asks for, in terms that no dialect and no other service owns.

Every dialect parses its body into a GenerationRequest. None leaves a value to the model's defaults,
then to the engine's. The ranges are those of `services.shared.limits`; the dialect checks them, so
that an error names its own field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from services.api.access.principal import Principal
from services.api.prompts.render import Conversation

TextOrTokens = str | tuple[int, ...]  # a prompt without a chat template


@dataclass(frozen=True, slots=True)
class Infill:
    """A prompt whose answer is the text between two texts."""

    prefix: str
    suffix: str

    def __len__(self) -> int:
        """The characters of both."""
        return len(self.prefix) + len(self.suffix)


class Lane(Enum):
    """Which requests go first where requests wait."""

    INTERACTIVE = "interactive"
    BACKGROUND = "background"
    BATCH = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a token is chosen."""

    temperature: float | None = None  # 0: greedy
    top_k: int | None = None  # 0: off
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None  # tokens
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None  # tokens
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    seed: int | None = None  # None: random
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """What ends an answer."""

    max_tokens: int | None = None  # None: the context is full
    min_tokens: int = 0
    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


class OutputFormat(Enum):
    """The language in which a structured output is described."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GBNF = "gbnf"
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """What every answer must match."""

    format: OutputFormat
    source: str
    field: str = ""  # the client's name of it, for errors


class ToolChoice(Enum):
    """Whether the model calls the tools of the conversation."""

    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request of a client: `answers_per_prompt` answers to each of its prompts."""

    id: str  # in the client's response and in the logs
    model: str  # any name of it
    principal: Principal
    prompt: Conversation | tuple[TextOrTokens | Infill, ...]
    answers_per_prompt: int = 1
    sampling: Sampling = Sampling()
    stopping: Stopping = Stopping()
    structured_output: StructuredOutput | None = None
    tool_choice: ToolChoice = ToolChoice.AUTO
    parallel_tool_calls: bool = True  # False: an answer ends after its first call
    thinking_budget: int | None = None  # tokens; None: no limit
    separates_reasoning: bool = True  # False: thinking stays a part of the text
    top_logprobs: int | None = None  # None: no log-probabilities; 0: only of the chosen token
    prompt_logprobs: bool = False
    lane: Lane = Lane.INTERACTIVE
    deadline_seconds: float | None = None
    keep_alive_seconds: float | None = None  # negative: the model stays loaded; 0: unload when idle
    use_cache: bool = True
    private_cache_key: bytes = b""  # 32 bytes that only the client knows; empty: none

    @property
    def prompt_field(self) -> str:
        """The field that the prompt came in: it has this name in every dialect."""
        return "messages" if isinstance(self.prompt, Conversation) else "prompt"

    @property
    def prompt_count(self) -> int:
        """The number of prompts; a conversation is one."""
        return 1 if isinstance(self.prompt, Conversation) else len(self.prompt)

    @property
    def answer_count(self) -> int:
        """The number of answers, over all prompts."""
        return self.prompt_count * self.answers_per_prompt
