"""Whom a command asks: a server elsewhere, or a model in this process, by the same requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from server.caller import LOCAL
from server.errors import ApiError
from server.serving import Served, load
from server.settings import BadSettings, Settings
from server.terminal.conversation import run
from server.translate import lens
from server.translate.chat import prepare
from server.translate.chat_reply import ChatReply
from steering.evaluation.openai_client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]


class Asked(Protocol):
    """Answers as HTTP would; what is refused raises with one line."""

    def chat(self, body: Mapping[str, object]) -> Json: ...

    def lens(self, body: Mapping[str, object]) -> Json: ...

    @property
    def default_profile(self) -> str | None: ...


@contextmanager
def asked(settings: Settings, url: str | None) -> Iterator[Asked]:
    """url: of a running server; None loads the model here."""
    if url is not None:
        yield Remote(Client(url, settings.api_key))
        return
    with Console(stderr=True).status(f"Loading {settings.model} ..."):
        served = load(replace(settings, max_rows=2, default_mode="off"))
    try:
        yield Local(served)
    except ApiError as error:
        raise BadSettings(" ".join(str(error).split())) from None
    finally:
        served.engine.close()


@dataclass(frozen=True)
class Local:
    served: Served

    @property
    def default_profile(self) -> str | None:
        return self.served.default_profile

    def chat(self, body: Mapping[str, object]) -> Json:
        call = prepare(_written({**body, "model": self.served.model.name}), (), self.served, "off", LOCAL)
        (request,) = call.requests
        events = list(run(self.served.engine, request, lambda: False))
        return dict(ChatReply(call, self.served.model).whole(events))

    def lens(self, body: Mapping[str, object]) -> Json:
        call = lens.prepare(_written(body), self.served)
        *_, last = run(self.served.engine, call.request, lambda: False)
        return dict(lens.reply(call, last.lens, self.served.model))


@dataclass(frozen=True)
class Remote:
    client: Client

    @property
    def default_profile(self) -> str | None:
        told = self.client.get("steering/config")["steering"]
        profile: str | None = told.get("profile")
        return profile and profile.partition("@")[0]

    def chat(self, body: Mapping[str, object]) -> Json:
        model = self.client.get("models")["data"][0]["id"]
        return self.client.post("chat/completions", {**body, "model": model})

    def lens(self, body: Mapping[str, object]) -> Json:
        return self.client.post("steering/lens", dict(body))


def _written(body: Mapping[str, object]) -> bytes:
    return json.dumps({key: value for key, value in body.items() if value is not None}).encode()
