"""An answer to be verified -> requests of the engine, what layers said of it -> the verdict."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from server.caller import Caller
from server.errors import ApiError
from server.request_json import parse
from server.schemas.verify import VerifiedCandidate, VerifyReply, VerifyRequest
from server.schemas.violations import validate
from server.serving import Served
from server.translate.call import answer_length, short_profile, too_long
from server.translate.catalog import profile_with_lens
from server.translate.policy import check_plain
from server.translate.prompt import followed, shared
from server.translate.steering import no_default_profile
from server.translate.turns import check_last, check_size, encode, turns
from server.translate.verify_reading import (
    NamedReading,
    WholeReading,
    named_reading,
    stands_by,
    whole_reading,
)
from steering.engine.lens_query import Grid, LensQuery
from steering.engine.request import Completion, Request, SamplingParams
from steering.lens import TunedLens
from steering.model.chat import token_text
from steering.pack import Overrides, Pack
from steering.plan import Detector
from steering.verification import (
    MAX_CONTINUED,
    Finding,
    Judgement,
    Standard,
    early_exit,
    judge_all,
    judge_named,
    standard_of,
)

DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True)
class VerifyCall:
    """One request, checked."""

    fields: VerifyRequest
    pack: Pack
    detector: Detector
    prompt_ids: tuple[int, ...]
    generates: Request | None
    """Where there is no answer yet: who says it."""
    most_tokens: int = 0
    """That all requests of the engine may come to, together."""

    @property
    def profile(self) -> str:
        return short_profile(f"{self.pack.name}@{self.pack.digest}")

    @property
    def standard(self) -> Standard:
        return standard_of(self.pack, self.detector)


def prepare(body: bytes, served: Served, caller: Caller) -> VerifyCall:
    """Parses, validates, encodes; raises before any work is done. CPU-bound: not for the event loop."""
    fields = _validate(parse(body), served)
    if fields.answer is None:
        check_plain(caller, "an answer of the plain model: send one as answer", "answer")
    pack = profile_with_lens(_profile(fields, served), served)
    assert pack.detector is not None  # noqa: S101 - `profile_with_lens` refuses others
    prompt_ids, context = tuple(encode(turns(fields.messages), None, served, "messages")), served.engine.context
    generates = None
    if fields.answer is None:
        limits = ("messages", "max_tokens")
        max_tokens = answer_length(fields.max_tokens, DEFAULT_MAX_TOKENS, len(prompt_ids), context, limits)
        continues = fields.messages[-1].role == "assistant"
        greedy = SamplingParams(max_tokens, temperature=0)
        generates = Request(_id(), prompt_ids, greedy, continues=continues)
    call = VerifyCall(fields, pack, pack.detector, prompt_ids, generates)
    if generates is None:
        reading = to_read(call, None, served)  # what cannot be read is refused now
        most = sum(len(request.prompt_ids) for request in reading.requests)
        whole = len(prompt_ids) + reading.num_tokens
    else:
        names = [len(name.encode()) for name in fields.candidates or ()]
        whole = len(prompt_ids) + generates.sampling.max_tokens
        most = whole + max(1, len(names)) * whole + sum(names)
    return replace(call, most_tokens=most + (0 if fields.candidates else whole + MAX_CONTINUED))


def _validate(body: object, served: Served) -> VerifyRequest:
    fields = validate(VerifyRequest, body)
    if fields.model not in (None, served.model.name):
        raise ApiError("model_not_found", f"The model read here is {served.model.name}.", "model")
    if fields.answer is not None and fields.max_tokens is not None:
        raise ApiError("invalid_value", "max_tokens is of an answer that is generated: leave it out.", "max_tokens")
    said = turns(fields.messages)
    check_last(said)
    check_size(said, None, served, "messages")
    least = len((fields.answer or "").encode()) // served.longest_token
    if least >= served.engine.context:
        raise too_long(served.engine.context, f"at least {least}", "answer")
    return fields


def _profile(fields: VerifyRequest, served: Served) -> str:
    name = fields.profile or served.default_profile
    if name is None:
        raise no_default_profile("profile", '"profile"')
    return name


@dataclass(frozen=True)
class Decided:
    """The verdict, but for what the early layer would have gone on to say."""

    reading: Reading
    judgement: Judgement
    found: Finding | None = None
    candidates: tuple[VerifiedCandidate, ...] = ()
    early: str | None = None
    """The candidate that the early layer prefers."""
    said: str | None = None
    continues: Request | None = None
    """Whose greedy answer is how the early layer goes on."""

    def reply(self, continued: Completion | None) -> VerifyReply:
        call, served, standard = self.reading.call, self.reading.served, self.reading.call.standard
        told: VerifyReply = {
            "object": "steering.verification",
            "model": served.model.name,
            "system_fingerprint": served.fingerprint(call.pack.plan(Overrides(mode="observe"))),
            "profile": call.profile,
            "layer": call.detector.lens.layer,
            "lens": "tuned" if isinstance(call.detector.lens, TunedLens) else "logit",
            "verdict": self.judgement.verdict,
            "threshold": standard.threshold,
            "margin": standard.margin,
            "answer": self.reading.answer,
            "answer_tokens": self.reading.num_tokens,
        }
        if self.judgement.reason:
            told["reason"] = self.judgement.reason
        if standard.false_alarms is not None:
            told["false_alarms"] = standard.false_alarms
        if standard.longest is not None:
            told["calibrated_tokens"] = standard.longest
        if self.found is not None:
            told["at"], told["drift"], told["gap"] = self.found.at, self.found.drift, self.found.gap
        if self.said is not None:
            told["said"] = self.said
        if (early := self.early if continued is None else continued.text) is not None:
            told["early"] = early
        if self.candidates:
            told["candidates"] = list(self.candidates)
        return told


@dataclass(frozen=True)
class Reading:
    """What of an answer is read: its tokens, or candidates in the place of the one that it stands by."""

    call: VerifyCall
    served: Served
    answer: str
    num_tokens: int
    what: WholeReading | NamedReading | None
    """None: there is nothing to read."""
    requests: tuple[Request, ...] = field(default=())

    def decide(self, grids: Sequence[Grid]) -> Decided:
        """grids: what layers said, of each request."""
        standard = self.call.standard
        if self.what is None:
            reason = "the answer stands by none of the candidates" if self.answer.strip() else "the answer is empty"
            return Decided(self, Judgement("undecided", reason))
        if isinstance(self.what, NamedReading):
            return self._decide_named(self.what, grids, standard)
        found, judgement = judge_all(self.what.findings(grids[0]), standard)
        before = self.what.before(found.at)
        room = min(MAX_CONTINUED, self.served.engine.context - len(before))
        plan = early_exit(self.call.detector, self.served.model.layout.vocab_size)
        continues = Request(_id(), before, SamplingParams(room, temperature=0), plan, continues=True)
        said = token_text(self.served.model, self.what.ids[found.at])
        return Decided(self, judgement, found, said=said, continues=continues)

    def _decide_named(self, what: NamedReading, grids: Sequence[Grid], standard: Standard) -> Decided:
        compared = what.compare(grids)
        names, model = self.call.fields.candidates or [], self.served.model
        candidates = tuple(
            VerifiedCandidate(
                text=name, tokens=[token_text(model, i) for i in ids], early_logprob=early, late_logprob=late
            )
            for name, ids, early, late in zip(names, what.endings, compared.early, compared.late, strict=True)
        )
        judgement = judge_named(compared.found, standard)
        return Decided(self, judgement, compared.found, candidates, early=names[compared.best], said=names[what.said])


def to_read(call: VerifyCall, generated: Completion | None, served: Served) -> Reading:
    """generated: the answer, where none was given. Refuses candidates that nothing can be told of."""
    fields, prompt = call.fields, call.prompt_ids
    if generated is None:
        answer = fields.answer or ""
        text = _encoded(call, answer, served, "answer")
        start = max(1, shared(text, prompt))
    else:  # by the tokens that were drawn, which its text might not be encoded to
        answer, text, start = generated.text, [*prompt, *(token.id for token in generated.tokens)], len(prompt)
    what: WholeReading | NamedReading | None = None
    names = [name.strip() or name for name in fields.candidates or ()]
    if not names and len(text) > start:
        what = whole_reading(text, start, call.detector, call.standard.longest)
    elif names and (place := stands_by(answer, names)):
        which, at = place
        texts = [_encoded(call, answer[:at] + name, served, "candidates") for name in names]
        what = named_reading(texts, which, max(1, shared(texts[which], prompt)), call.detector)
    requests = () if what is None else tuple(_scored(prompt, query) for prompt, query in what.asks)
    return Reading(call, served, answer, len(text) - start, what, requests)


def _encoded(call: VerifyCall, answer: str, served: Served, param: str) -> list[int]:
    ids = encode(followed(turns(call.fields.messages), answer), None, served, param)
    if len(ids) >= served.engine.context:
        raise too_long(served.engine.context, len(ids), param)
    return ids


def _scored(prompt: Sequence[int], query: LensQuery) -> Request:
    sampling = SamplingParams(0, temperature=0, prompt_logprobs=0)
    return Request(_id(), tuple(prompt), sampling, lens=query)


def _id() -> str:
    return f"verify-{uuid.uuid4().hex}"
