"""Who may call: deny by default. Which key a request comes with is known here, what it may do `server.access` says."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access import is_open
from server.audit import AuditLog
from server.caller import LOCAL, Caller, network_of, set_caller
from server.errors import ApiError, error_response
from server.keys import KeyRing
from server.limits import Account, Accounts, Guesses, set_account


class Authenticate:
    """Pure ASGI middleware: every path that is not open needs `Authorization: Bearer KEY`, if any key is asked for.

    Decides on `scope["path"]`, the very string that is routed by; never on a URL put together from headers. A stream
    that has begun goes on to its end, whatever becomes of its key.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self.app, self.keys = app, keys
        self.guesses, self.accounts = Guesses(), Accounts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        try:
            caller = self._caller(scope)
            set_caller(scope, caller)
            account = self.accounts.of(caller)
            set_account(scope, account)
            send = _telling(account, send)
            if not is_open(scope["path"]):
                account.take_request()
        except ApiError as error:
            await error_response(error, scope)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        """Raises the 401, or the 429 of somebody who guesses."""
        self._refresh(scope)
        if not self.keys.asked_for:
            return LOCAL
        if is_open(scope["path"]):  # no key is looked at: replies there tell nobody whether one is right
            return Caller()
        try:
            return self._holder(scope)
        except ApiError as error:
            if error.code == "invalid_api_key":
                self.guesses.take(network_of(scope))
            raise

    def _holder(self, scope: Scope) -> Caller:
        """Of the key that came."""
        credentials = [value for name, value in scope["headers"] if name == b"authorization"]
        if not credentials:
            raise ApiError(
                "missing_api_key", "This server needs an API key: send the header Authorization: Bearer KEY."
            )
        scheme, _, key = credentials[0].partition(b" ")
        caller = self.keys.find(key.strip()) if len(credentials) == 1 and scheme.lower() == b"bearer" else None
        if caller is None:
            message = "Incorrect API key; exactly one header Authorization: Bearer KEY is expected."
            raise ApiError("invalid_api_key", message)
        return caller

    def _refresh(self, scope: Scope) -> None:
        reload = self.keys.refresh()
        if reload is None:
            return
        self.accounts.keep(self.keys.callers)
        log: AuditLog = scope["app"].state.audit  # the request that came upon it has no part in it
        if reload.problem is None:
            log.write("keys_reloaded", keys=reload.keys)
        else:
            log.write("keys_not_reloaded", keys=reload.keys, reason=reload.problem)


def _telling(account: Account, send: Send) -> Send:
    """Adds what is left to the headers of the reply."""

    async def send_with_limits(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(dict(account.headers))
        await send(message)

    return send_with_limits
