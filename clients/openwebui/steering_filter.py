"""
title: Steering
author: Unsway
version: 0.1.0
license: Apache-2.0
description: Switches Unsway's activation steering on in a chat, and says below each answer where it acted.
required_open_webui_version: 0.6.10
"""

# One file, to be pasted into Open WebUI: docs/use-from/open-webui.md. It imports nothing that is not there.

from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, Field

Emitter = Callable[[dict[str, Any]], Awaitable[None]]
TOLD = "unsway_told"
"""In the metadata of a request: its status line was shown."""


class Filter:
    """A switch below the message box. Only chats that it is on for are steered; titles, tags and the like never are."""

    class Valves(BaseModel):
        """What the administrator sets."""

        priority: int = Field(default=0, description="Filters with a lower number come first.")
        models: str = Field(
            default="",
            description="Models that an Unsway server serves, separated by commas; * stands for anything. "
            "Empty: all that this filter is on for.",
        )
        profile: str = Field(default="", description="The profile. Empty: the server's default.")
        strength: float = Field(default=1.0, ge=0, description="Multiplies the calibrated dose, where users set none.")

    class UserValves(BaseModel):
        """What each user may set."""

        mode: Literal["on", "observe"] = Field(default="on", description="observe: measure, and change nothing.")
        strength: float = Field(default=-1.0, description="0 to the profile's limit; below 0: the administrator's.")
        show_trace: bool = Field(default=True, description="Say below each answer where steering acted.")

    def __init__(self) -> None:
        self.valves = self.Valves()
        self.toggle = True
        self.icon = (
            "data:image/svg+xml;utf8,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' "
            "stroke='currentColor' stroke-width='2'><circle cx='12' cy='12' r='9'/><path d='M3 12h18M12 12v9'/></svg>"
        )

    def inlet(
        self,
        body: dict[str, Any],
        __user__: dict[str, Any] | None = None,
        __metadata__: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Adds `steering`, unless a custom parameter of the model has done so."""
        if _task(body, __metadata__) or "steering" in body or not self._serves(str(body.get("model", ""))):
            return body
        mine = self._user_valves(__user__)
        strength = self.valves.strength if mine.strength < 0 else mine.strength
        steering: dict[str, Any] = {"mode": mine.mode, "strength": strength}
        if self.valves.profile:
            steering["profile"] = self.valves.profile
        return body | {"steering": steering}

    async def stream(
        self,
        event: dict[str, Any],
        __user__: dict[str, Any] | None = None,
        __metadata__: dict[str, Any] | None = None,
        __event_emitter__: Emitter | None = None,
    ) -> dict[str, Any]:
        """The last chunk of an answer has its receipt: it becomes the status line."""
        for choice in event.get("choices") or []:
            if receipt := choice.get("steering"):
                await self._tell(_sentence(receipt), __user__, __metadata__, __event_emitter__)
        return event

    async def outlet(
        self,
        body: dict[str, Any],
        __user__: dict[str, Any] | None = None,
        __metadata__: dict[str, Any] | None = None,
        __event_emitter__: Emitter | None = None,
    ) -> dict[str, Any]:
        """An answer that was not streamed: of what the server said only the count of tokens comes here."""
        messages = body.get("messages") or [{}]
        usage = messages[-1].get("usage") or {}
        steered = (usage.get("completion_tokens_details") or {}).get("steered_tokens")
        if steered is not None and not (__metadata__ or {}).get(TOLD):
            line = f"Steering acted on {steered} of {usage.get('completion_tokens')} tokens"
            await self._tell(line, __user__, __metadata__, __event_emitter__)
        return body

    async def _tell(
        self,
        line: str,
        user: dict[str, Any] | None,
        metadata: dict[str, Any] | None,
        emit: Emitter | None,
    ) -> None:
        if metadata is not None:
            metadata[TOLD] = True
        if emit is not None and self._user_valves(user).show_trace:
            await emit({"type": "status", "data": {"description": line, "done": True, "hidden": False}})

    def _user_valves(self, user: dict[str, Any] | None) -> "Filter.UserValves":
        return self.UserValves(**dict((user or {}).get("valves") or {}))

    def _serves(self, model: str) -> bool:
        patterns = [pattern.strip() for pattern in self.valves.models.split(",") if pattern.strip()]
        return not patterns or any(fnmatchcase(model, pattern) for pattern in patterns)


def _task(body: dict[str, Any], metadata: dict[str, Any] | None) -> bool:
    """Whether Open WebUI asks for itself: for a title, tags, a search query."""
    return any((told or {}).get("task") for told in (metadata, body.get("metadata")))


def _sentence(receipt: dict[str, Any]) -> str:
    """What a receipt says, in one line."""
    name = str(receipt.get("profile", "")).partition("@")[0]
    if not receipt.get("applied") and receipt.get("mode") != "observe":
        return f"Steering ({name}): {receipt.get('skipped', 'nothing was changed')}"
    said = [f"{receipt.get('fired_tokens', 0)} of {receipt.get('tokens', 0)} tokens"]
    if receipt.get("fired_tokens") and "early_token" in receipt:
        said.append(
            f"early layers said “{receipt['early_token'].strip()}”, late ones “{receipt['late_token'].strip()}”"
        )
    if "max_drift" in receipt:
        said.append(f"drift {receipt['max_drift']:.2f}")
    verb = "gate opened on" if receipt.get("gate") == "drift" else "acted, gate opened on"
    return f"Steering ({name}): {verb} {'; '.join(said)}"
