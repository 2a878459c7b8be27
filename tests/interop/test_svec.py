""".svec: as CAST and AISteer360 write and read it, and files that are none."""

from __future__ import annotations

import json

import pytest
import torch

from steering.errors import DataError
from steering.interop.directions import Directions
from steering.interop.svec import parse_svec, write_svec
from tests.interop.test_gguf import noise, same


def test_as_cast_writes_it() -> None:
    """A row of numbers a layer, and what each explains."""
    vectors = noise(0, 11, 3, width=5)
    document = {
        "model_type": "llama",
        "directions": {layer: vector.numpy().tolist() for layer, vector in vectors.items()},
        "explained_variances": dict.fromkeys(vectors, 0.5),
    }
    found = parse_svec(json.dumps(document).encode(), "v")
    assert same(found.vectors, vectors) and list(found.vectors) == [0, 3, 11]
    assert (found.model_type, found.notes) == ("llama", {})


def test_as_aisteer360_writes_it() -> None:
    """A matrix of one row a layer; keys that have nothing to say may be absent or null."""
    vectors = noise(1, 2, width=5)
    document = {"model_type": "llama", "directions": {k: v[None].tolist() for k, v in vectors.items()}}
    for more in ({}, {"num_heads": None, "head_dim": None, "probe_accuracies": None}):
        assert same(parse_svec(json.dumps(document | more).encode(), "v").vectors, vectors)


def test_as_both_read_it() -> None:
    """CAST: a list of numbers and `explained_variances`, whole numbers as keys; AISteer360 takes these too."""
    vectors = noise(0, 3, width=5)
    document = json.loads(write_svec(Directions(vectors, "llama", {"pack": "p@0", "lost": "a; b"})))
    assert document["model_type"] == "llama" and document["explained_variances"] == {}
    assert same({int(k): torch.tensor(v) for k, v in document["directions"].items()}, vectors)
    assert document["unsway"] == {"pack": "p@0", "lost": "a; b"}


def test_law_there_and_back() -> None:
    directions = Directions(noise(0, 5, width=33), "llama", {"pack": "p"})
    back = parse_svec(write_svec(directions), "v")
    assert same(back.vectors, directions.vectors) and (back.model_type, back.notes) == ("llama", {"pack": "p"})


def svec(**changes: object) -> str:
    return json.dumps({"model_type": "llama", "directions": {"1": [0.5, 1]}} | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        ("{}", "expected a text model_type"),
        ("[" * 100_000, "not valid JSON"),
        (svec()[:-1], "not valid JSON"),
        (svec(directions=[1]), "expected a text model_type and an object directions"),
        (svec(model_type=None), "expected a text model_type"),
        (svec(norms=1), "'norms' is no key"),
        (svec(directions={"-1": [1]}), "'-1' is no number of a layer"),
        (svec(directions={"01": [1]}), "'01' is no number of a layer"),
        (svec(directions={"1\n2": [1]}), r"'1\\n2' is no number"),
        (svec(directions={"\ud800": [1]}), r"'\\ud800' is no number"),
        (svec(directions={"99999": [1]}), "'99999' is no number of a layer"),
        (svec(directions={"1": []}), "layer 1 must be a list of numbers"),
        (svec(directions={"1": {"0": 1}}), "must be a list of numbers"),
        (svec(directions={"1": ["1"]}), "must be a list of numbers"),
        (svec(directions={"1": [True]}), "must be a list of numbers"),
        (svec(directions={"1": [[[1]]]}), "must be a list of numbers"),
        (svec(directions={"1": [1], "2": [1, 2]}), "several widths"),
        (svec(directions={"1": [[1, 2], [3, 4]]}), "layer 1 has 2 rows"),
        (svec(num_heads=8, head_dim=8), "vectors of single heads"),
        (svec(directions={"1": [10**400]}), "not finite"),
        ('{"model_type": "x", "directions": {"1": [NaN]}}', "NaN is no number"),
        ('{"model_type": "x", "directions": {"1": [1], "1": [2]}}', "a key is given twice"),
        ('{"model_type": "x", "directions": {"1": [' + "9" * 5000 + "]}}", "not valid JSON"),
    ],
)
def test_T14_files_that_are_none(text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^v: .*{message}"):
        parse_svec(text.encode(), "v")
