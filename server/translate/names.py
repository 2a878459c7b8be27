"""What fields are called in a request: chats and the Responses API ask for the same under different names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """Paths for error messages; as they stand, those of chats."""

    prompt: str = "messages"
    limit: str = "max_completion_tokens"
    schema: str = "response_format.json_schema.schema"
    tool: str = "tools.{}.function"
    choice: str = "tool_choice.function.name"

    def function(self, index: int) -> str:
        return self.tool.format(index)
