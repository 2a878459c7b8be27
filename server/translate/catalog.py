"""What is served -> the lists of models and profiles, and one of each."""

from __future__ import annotations

from typing import Any

from server.errors import ApiError, to_api_error
from server.schemas.replies import ModelCard
from server.schemas.steering import Profile, ProfileDetails
from server.serving import Served
from server.translate.call import short_profile
from server.translate.steering import from_model_id, split_reference
from steering.errors import PackCorrupt, PackError
from steering.one_file import OneFile, pack_in_one_file
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
    return [listed(name, entry, served) for name, entry in served.store.entries()]


def profile(reference: str, served: Served, param: str = "name") -> Pack | Profile:
    """By `name` or `name@digest prefix`; a broken one, which has no digest to compare, by its name alone. Raises
    `steering_profile_not_found`. param: where the reference stands in the request."""
    name, digest = split_reference(reference)
    entry = served.store.entry(name)
    if isinstance(entry, PackError) and digest is None:
        return listed(name, entry, served)
    try:
        return served.store.get(name, digest)
    except PackError as error:
        raise ApiError(to_api_error(error).code, str(error), param) from error


def usable_profile(reference: str, served: Served, param: str = "name") -> Pack:
    """Raises `profile_unavailable` too."""
    found = profile(reference, served, param)
    if not isinstance(found, Pack):
        raise ApiError("profile_unavailable", f"{reference}: {found['broken']}", param)
    return found


def profile_with_lens(reference: str, served: Served) -> Pack:
    """For what only reads: the `profile` of a request."""
    pack = usable_profile(reference, served, "profile")
    if pack.detector is None:
        raise ApiError("invalid_value", f"profile {pack.name} has no lens: it measures nothing.", "profile")
    return pack


def profile_file(reference: str, served: Served) -> OneFile:
    """What lies on the disk, if it is what was loaded."""
    with served.unchanged():
        pack = usable_profile(reference, served)
        file = pack_in_one_file(served.store.folder(pack.name))
    if file.digest == pack.digest:
        return file
    file.data.close()
    raise PackCorrupt(f"the files of {pack.name}@{pack.digest[:12]} were changed after it was loaded.")


def profile_details(pack: Pack, served: Served) -> ProfileDetails:
    told: Any = {key: value for key, value in details(pack, served.model.layout).items() if value is not None}
    del told["num_corrections"]
    told |= _uploaded(pack.name, served)
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


def listed(name: str, entry: Pack | PackError, served: Served) -> Profile:
    """What a list says of one profile."""
    told = summary(name, entry) | _uploaded(name, served)
    known: Any = {key: told[key] for key in Profile.__annotations__ if key in told}
    profile: Profile = known
    return profile


def _uploaded(name: str, served: Served) -> dict[str, bool]:
    return {"uploaded": True} if served.uploads is not None and name in served.uploads else {}
