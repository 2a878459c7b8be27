"""GET /v1/steering/traces/{request_id}"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.caller import caller_of
from server.deps import Traces
from server.errors import ApiError
from server.schemas.traces import Trace

router = APIRouter()


@router.get(
    "/v1/steering/traces/{request_id}",
    operation_id="retrieve_trace",
    summary="Receipts and traces of a request that has ended, by the id of its reply",
    responses={200: {"model": Trace}},
)
async def retrieve_trace(request_id: str, request: Request, traces: Traces) -> Response:
    document = traces.get(request_id, caller_of(request.scope))
    if document is None:
        raise ApiError(
            "trace_not_found",
            f"There is no trace of {request_id[:80]!r}: they are kept for {traces.seconds:g} seconds, under the id of "
            "the reply, of requests that ended and were steered, observed or compared; the oldest give way to others.",
            "request_id",
        )
    return Response(document, media_type="application/json")
