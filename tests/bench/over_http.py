"""Servers over HTTP, streaming: each on one core, its clients on another; ours against its own engine and its peers."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import httpx

from tests.bench import names
from tests.bench.models import FIRST_WORD, random_llama, save
from tests.bench.peers import CONTEXT, ROWS, Peer, Peers
from tests.bench.profiles import save_packs
from tests.bench.rounds import Cell, Contender, Contest, Observation, timed
from tests.bench.servers import Server, cores, free_port, on_core, started, unsway
from tests.bench.streams import STREAMS, ask_all, gaps_while_prefilling
from tests.bench.workload import Workload, engine_of

PROMPT_CHARACTERS = 96
"""Fewer than 64 tokens."""
LONG_PROMPT = 2048
LONG_ANSWER = 256

THEIRS = (names.TRANSFORMERS_SERVE, names.SAKLAS, names.LLAMA_CPP)


def cells(shapes: Iterable[str], clients: Iterable[int], new: int, peers: Peers) -> Iterator[Cell]:
    clients = [n for n in clients if n <= ROWS]
    for shape in shapes:
        for count in clients:
            work = Workload(shape, count, 64 + new, new)
            yield Cell("http", shape, count, work.context, partial(contest, work, peers))
        yield Cell("http, gaps", shape, STREAMS, LONG_PROMPT, partial(gaps, shape))


@contextmanager
def contest(work: Workload, peers: Peers) -> Iterator[Contest]:
    """Every client sends another text; where profiles are on, it asks for another of them, too."""
    server_core, client_core = cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options, profiles = prepare(folder, work.shape)
        ours = stack.enter_context(unsway(*options, core=server_core))
        bodies = [body(i, work.new) | {"model": work.shape, "ignore_eos": True} for i in range(work.batch)]
        steered = [one | {"steering": name} for one, name in zip(bodies, profiles, strict=False)]
        model, engine = stack.enter_context(engine_of(work, "fast-linears"))
        prompts = [model.tokenizer.encode(one["prompt"]) for one in bodies]
        contenders: dict[str, Contender] = {
            names.ENGINE_ALONE: alone(partial(work.run, engine, prompts=prompts), server_core),
            names.SERVED: taking_turns(ours, bodies),
            names.EACH_ITS_OWN: taking_turns(ours, steered),
        }
        stack.enter_context(on_core(client_core))
        found, notes = peers.find(folder / "model", {name: free_port() for name in THEIRS})
        for peer in found:
            try:
                contenders[peer.name] = contender = stack.enter_context(peer_contender(peer, work, server_core))
                contender()
            except (RuntimeError, httpx.HTTPError) as error:
                contenders.pop(peer.name, None)
                notes.append(f"{peer.name}: not measured, {error}")
        pairs = [(name, names.ENGINE_ALONE) for name in (names.SERVED, names.EACH_ITS_OWN)]
        pairs += [(names.EACH_ITS_OWN, name) for name in THEIRS if name in contenders]
        yield Contest(contenders, work.tokens, tuple(pairs), tuple(notes))


@contextmanager
def peer_contender(peer: Peer, work: Workload, core: int) -> Iterator[Contender]:
    """Every client sends another text; steered alike, if at all."""
    url = f"http://127.0.0.1:{peer.port}"
    with started(peer.command, url=url, ready=peer.ready, core=core, environment=peer.environment) as server:
        yield taking_turns(server, [body(i, work.new) | dict(peer.body) for i in range(work.batch)])


@contextmanager
def gaps(shape: str) -> Iterator[Observation]:
    """Seconds between the tokens of running streams while a long prompt is read."""
    server_core, client_core = cores()
    running = [body(i, LONG_ANSWER) | {"model": shape, "ignore_eos": True} for i in range(STREAMS)]
    long = {"model": shape, "prompt": [FIRST_WORD + i % 300 for i in range(LONG_PROMPT)], **asking(1)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options, _ = prepare(folder, shape)
        server = stack.enter_context(unsway(*options, core=server_core))
        stack.enter_context(on_core(client_core))

        def observe() -> dict[str, float]:
            worst, median = gaps_while_prefilling(server.url, running, long)
            return {names.GAP_P99: worst, names.GAP_MEDIAN: median}

        yield Observation(observe, ((names.GAP_P99, names.GAP_MEDIAN),))


def prepare(folder: Path, shape: str) -> tuple[list[str], list[str]]:
    """A model and packs in the folder; returns options that serve them, and the packs' names."""
    model = random_llama(shape)
    save(model, folder / "model")
    (folder / "packs").mkdir()
    profiles = save_packs(model, folder / "packs", ROWS)
    options = ["--model", str(folder / "model"), "--served-model-name", shape, "--packs", str(folder / "packs")]
    options += ["--threads", "1", "--max-rows", str(ROWS), "--context", str(LONG_PROMPT + CONTEXT)]
    return [*options, "--prefix-cache", "0B"], profiles  # every round reads its prompts


def body(client: int, new: int) -> dict[str, Any]:
    """Of random letters: several a token."""
    letters = random.Random(client)
    return {"prompt": "".join(letters.choices(ascii_lowercase, k=PROMPT_CHARACTERS)), **asking(new)}


def asking(new: int) -> dict[str, Any]:
    return {"max_tokens": new, "temperature": 0, "stream": True}


def alone(run: Callable[[], object], core: int) -> Contender:
    """The engine in this process, on the servers' core."""
    contender = timed(run)

    def pinned() -> float:
        with on_core(core):
            return contender()

    return pinned


def taking_turns(server: Server, bodies: Sequence[dict[str, Any]]) -> Contender:
    server.pause()

    def contender() -> float:
        server.resume()
        try:
            return ask_all(server.url, bodies)
        finally:
            server.pause()

    return contender
