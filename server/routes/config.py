"""GET /v1/steering/config"""

from __future__ import annotations

from fastapi import APIRouter

from server.deps import Configured, Loaded
from server.schemas.config import Config
from server.translate.config import describe

router = APIRouter()


@router.get(
    "/v1/steering/config",
    operation_id="retrieve_config",
    summary="The settings really in use, where each comes from, and what the engine made of them",
)
async def retrieve_config(configuration: Configured, served: Loaded) -> Config:
    return describe(configuration, served)
