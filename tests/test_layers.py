"""The architecture as a test: which folder may import which, no circles, and links that are still links."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("models", "quant", "export", "runtimes", "devices")
# What each folder may import besides itself; `native` stands for edgekit._native.
ALLOWED = {
    "models": set(),
    "quant": {"models", "native"},
    "export": {"models", "quant"},
    "runtimes": {"models", "native"},
    "devices": {"models", "runtimes", "native"},
    "edgekit": {*LAYERS, "native"},
}


def source_files() -> list[tuple[str, Path]]:
    files = [(layer, path) for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
    # rglob does not follow the links in edgekit/, so these are the face's own files.
    face = [path for path in sorted((ROOT / "edgekit").rglob("*.py")) if path.relative_to(ROOT).parts[1] not in LAYERS]
    return files + [("edgekit", path) for path in face]


def module_name(layer: str, path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if layer == "edgekit" else ("edgekit", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> list[tuple[int, str]]:
    names: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name, not relatively"
            names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return names


def layer_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] != "edgekit":
        return None
    if len(parts) > 1 and parts[1] in LAYERS:
        return parts[1]
    return "native" if len(parts) > 1 and parts[1] == "_native" else "edgekit"


def test_links_are_links() -> None:
    for layer in LAYERS:
        link = ROOT / "edgekit" / layer
        assert link.is_symlink() and link.resolve() == ROOT / layer, (
            f"edgekit/{layer} is not a link to ../{layer}: this checkout turned links into text; "
            "run: git config core.symlinks true && git checkout -- edgekit"
        )


def test_every_import_points_downwards() -> None:
    wrong = []
    for layer, path in source_files():
        for line, name in imported(path):
            target = layer_of(name)
            if target is not None and target != layer and target not in ALLOWED[layer]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {layer} imports {name}")
            if name.split(".")[0] in LAYERS:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: import edgekit.{name}: this loads a second module")
    assert not wrong, "\n".join(wrong)


def test_no_import_circle() -> None:
    modules = {module_name(layer, path): path for layer, path in source_files()}
    arrows: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets = set()
        for _, target in imported(path):
            owner = target if target in modules else target.rpartition(".")[0]
            if owner in modules and owner != name and layer_of(target) != "native":
                targets.add(owner)
        arrows[name] = targets
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "import circle: " + " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(arrows[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in modules:
        visit(name, ())


@pytest.mark.parametrize("heavy", ["torch", "transformers", "scipy", "llama_cpp", "huggingface_hub", "jinja2"])
def test_the_base_install_needs_no_extra(heavy: str) -> None:
    """Everything that the base install promises imports while the optional packages are unimportable."""
    modules = "edgekit.cli, edgekit.inspection, edgekit.runtimes, edgekit.devices.bench_device"
    code = f"import sys; sys.modules[{heavy!r}] = None; import {modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
