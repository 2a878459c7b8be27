"""GET /metrics"""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from server.deps import Counted
from server.metrics import CONTENT_TYPE

router = APIRouter()


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Counters and timings for Prometheus, of the server and of what steering did",
    response_class=PlainTextResponse,
)
async def metrics(counted: Counted) -> Response:
    page = await to_thread.run_sync(counted.page)  # it looks into the records of jobs
    return Response(page, media_type=CONTENT_TYPE)
