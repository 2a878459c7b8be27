"""What is served -> the lists of models and profiles, and one of each."""

from __future__ import annotations

from typing import Any

from server.errors import ApiError, to_api_error
from server.schemas.replies import ModelCard
from server.schemas.steering import Profile, ProfileDetails
from server.serving import Served
from server.translate.call import short_profile
from server.translate.steering import from_model_id, split_reference
from steering.errors import PackError
from steering.model.layout import Layout
from steering.pack import Pack
from steering.pack_summary import details, summary


def model_cards(served: Served) -> list[ModelCard]:
    """The plain model and one id per usable profile; `base+none` is taken and not listed."""
    base = served.model.name
    return [_card(base, served), *(_profile_card(base, pack, served) for pack in served.profiles())]


def model_card(model_id: str, served: Served) -> ModelCard:
    """One id; raises `model_not_found`."""
    from_model_id(model_id, served)
    listed = {card["id"]: card for card in model_cards(served)}
    return listed.get(model_id) or {**_card(model_id, served), "parent": served.model.name}


def profiles(served: Served) -> list[Profile]:
    return [_profile(name, entry) for name, entry in served.store.entries()]


def profile(reference: str, served: Served, param: str = "name") -> Pack | Profile:
    """By `name` or `name@digest prefix`; a broken one, which has no digest to compare, by its name alone. Raises
    `steering_profile_not_found`. param: where the reference stands in the request."""
    name, digest = split_reference(reference)
    entry = dict(served.store.entries()).get(name)
    if isinstance(entry, PackError) and digest is None:
        return _profile(name, entry)
    try:
        return served.store.get(name, digest)
    except PackError as error:
        raise ApiError(to_api_error(error).code, str(error), param) from error


def profile_details(pack: Pack, layout: Layout) -> ProfileDetails:
    told: Any = {key: value for key, value in details(pack, layout).items() if value is not None}
    del told["num_corrections"]
    detailed: ProfileDetails = told
    return detailed


def _card(model_id: str, served: Served) -> ModelCard:
    return {"id": model_id, "object": "model", "created": served.created, "owned_by": "unsway"}


def _profile_card(base: str, pack: Pack, served: Served) -> ModelCard:
    return {
        **_card(f"{base}+{pack.name}", served),
        "parent": base,
        "steering": {
            "profile": short_profile(f"{pack.name}@{pack.digest}"),
            "max_strength": pack.max_strength,
            "observe_only": pack.observe_only,
        },
    }


def _profile(name: str, entry: Pack | PackError) -> Profile:
    told = summary(name, entry)
    listed: Any = {key: told[key] for key in Profile.__annotations__ if key in told}
    profile: Profile = listed
    return profile
