"""The rules of docs/architecture.md, executable."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("steering", "server")
INSTALLED = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = [*INSTALLED, *sorted((ROOT / "clients").rglob("*.py"))]
GENERATED = ROOT / "clients" / "python" / "unsway_client" / "types.py"

FORBIDDEN = [
    # (files under, may not import, except files under)
    ("steering", ("server", "fastapi", "starlette", "uvicorn", "pydantic", "asyncio"), ()),
    ("steering/engine", ("steering.calibration", "steering.evaluation", "steering.pack", "steering.store"), ()),
    ("steering/contrast", ("steering.calibration", "steering.evaluation", "steering.engine"), ()),
    (
        "steering",
        ("steering.organism",),
        (
            "steering/organism",
            "steering/commands",
            "steering/calibration/measure_organism.py",
        ),
    ),
    ("steering", ("transformers",), ("steering/model", "steering/organism")),
    ("steering", ("nnsight", "tuned_lens"), ("steering/calibration/doctor/reference.py",)),
    ("steering", ("matplotlib",), ("steering/calibration/plots.py",)),
    ("steering", ("llguidance",), ("steering/grammar",)),
    ("steering", ("gguf",), ()),  # an oracle of tests: it is not safe on files of strangers
    ("steering/engine", ("steering.grammar",), ()),
    ("server", ("nnsight", "tuned_lens", "matplotlib", "llguidance", "steering.interop", "steering.lens_file"), ()),
    ("steering/engine", ("steering.interop", "steering.lens_file"), ()),
    ("clients", PACKAGES, ()),
    ("server", ("transformers", "torch"), ("server/cli.py", "server/serving.py", "server/process.py")),
]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def within(path: Path, folder: str) -> bool:
    return path == ROOT / folder or (ROOT / folder) in path.parents


@pytest.mark.parametrize(("folder", "modules", "exempt"), FORBIDDEN)
def test_imports_point_one_way(folder: str, modules: tuple[str, ...], exempt: tuple[str, ...]) -> None:
    offences = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in SOURCES
        if within(path, folder) and not any(within(path, other) for other in exempt)
        for name in imports(path)
        if any(name == module or name.startswith(module + ".") for module in modules)
    ]
    assert not offences


def test_the_rules_bite() -> None:
    """The checker itself finds an import that is there."""
    assert any("torch" in imports(path) for path in SOURCES if within(path, "steering/engine"))


def test_only_schemas_define_pydantic_models() -> None:
    offences = [path for path in INSTALLED if "pydantic" in imports(path) and not within(path, "server/schemas")]
    assert not offences


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))], ids=str)
def test_files_stay_short(path: Path) -> None:
    assert path == GENERATED or len(path.read_text().splitlines()) <= 400


def test_functions_stay_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long


def test_no_import_does_work() -> None:
    """Module level holds definitions, constants and imports: no bare calls beyond a docstring or a registration."""
    allowed = {"AttentionInterface.register", "ExpertsInterface.register", "app.add_typer"}
    offences = [
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for path in SOURCES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) not in allowed
    ]
    assert not offences
