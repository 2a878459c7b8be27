"""GET /v1/models: what can be asked for."""

from __future__ import annotations

from fastapi import APIRouter

from server.deps import Loaded
from server.schemas.replies import ModelCard, ModelList
from server.translate import catalog

router = APIRouter()


@router.get("/v1/models", operation_id="list_models", summary="The model, plain and with each profile")
async def list_models(served: Loaded) -> ModelList:
    return {"object": "list", "data": catalog.model_cards(served)}


@router.get("/v1/models/{model_id:path}", operation_id="retrieve_model", summary="One model id")
async def retrieve_model(model_id: str, served: Loaded) -> ModelCard:
    return catalog.model_card(model_id, served)
