"""The documented public objects of Python's standard library, read from source, never imported."""

from __future__ import annotations

import ast
import os
import re
import sys
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rerank_jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Documented", "read_standard_library", "split_first_sentence"]

# Tests, bundled third-party code, and parts that some distributions package apart.
_SKIPPED = frozenset(
    {
        "__pycache__",
        "_bundled",
        "_vendor",
        "config",
        "dist-packages",
        "distutils",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtledemo",
    }
)
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)[.!?](?=\s|$)")

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Documented:
    """One object: its docstring's first sentence, the rest of it, and what its source declares.

    ``name`` is fully qualified and unique. ``attributes`` holds declared facts such as bases,
    decorators and the result's annotation.
    """

    name: str
    module: str
    kind: str
    signature: str
    sentence: str
    rest: str
    attributes: tuple[tuple[str, str], ...]


def read_standard_library(root: Path | None = None) -> list[Documented]:
    """Return every documented public module, class, function and method, sorted by name.

    The same files give the same list. Nothing is imported or executed. Where one name is defined
    several times, the first documented definition counts.

    Raises:
        InputError: the interpreter has no standard library in source form.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    found: dict[str, Documented] = {}
    for path, module in _public_modules(root):
        with warnings.catch_warnings():
            # Old modules hold escapes that newer parsers warn about.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
        for one in _walk(tree, module):
            found.setdefault(one.name, one)
    if not found:
        raise InputError(f"no sources of Python's standard library under {root}: install them")
    return [found[name] for name in sorted(found)]


def split_first_sentence(docstring: str) -> tuple[str, str]:
    """Split a clean docstring into its first sentence, on one line, and everything after it.

    A first paragraph without a full stop is a sentence as a whole.
    """
    paragraph, blank, after = docstring.strip().partition("\n\n")
    end = _SENTENCE_END.search(paragraph)
    cut = end.end() if end else len(paragraph)
    return " ".join(paragraph[:cut].split()), (paragraph[cut:].lstrip() + blank + after).strip()


def _public_modules(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield (file, module name) in a fixed order; folders of other packages are never entered."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if _is_public(name, folder, root))
        for file in sorted(files):
            name, _, suffix = file.rpartition(".")
            if suffix != "py" or not (name == "__init__" or _is_public(name, folder, root)):
                continue
            parts = [*Path(folder).relative_to(root).parts, name]
            yield Path(folder, file), ".".join(parts).removesuffix(".__init__")


def _is_public(name: str, folder: str, root: Path) -> bool:
    if name in _SKIPPED or name.startswith("_"):
        return False
    return Path(folder) != root or name in sys.stdlib_module_names


def _walk(tree: ast.Module, module: str) -> Iterator[Documented]:
    docstring = ast.get_docstring(tree)
    if docstring:
        sentence, rest = split_first_sentence(docstring)
        yield Documented(module, module, "module", f"import {module}", sentence, rest, ())
    yield from _definitions(tree.body, module, module, inside_class=False)


def _definitions(
    body: list[ast.stmt], module: str, prefix: str, *, inside_class: bool
) -> Iterator[Documented]:
    for node in body:
        if not isinstance(node, _Definition) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        docstring = ast.get_docstring(node)
        if docstring:
            yield _describe(node, module, name, docstring, inside_class=inside_class)
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, module, name, inside_class=True)


def _describe(
    node: _Definition, module: str, name: str, docstring: str, *, inside_class: bool
) -> Documented:
    sentence, rest = split_first_sentence(docstring)
    attributes = {"decorators": ", ".join(map(ast.unparse, node.decorator_list))}
    if isinstance(node, ast.ClassDef):
        kind, signature = "class", f"class {node.name}"
        attributes["bases"] = ", ".join(map(ast.unparse, node.bases))
        public = (item.name for item in node.body if isinstance(item, _Definition))
        attributes["members"] = ", ".join(item for item in public if not item.startswith("_"))
    else:
        kind = "method" if inside_class else "function"
        signature = f"{node.name}({ast.unparse(node.args)})"
        attributes["returns"] = ast.unparse(node.returns) if node.returns else ""
        attributes["async"] = "yes" if isinstance(node, ast.AsyncFunctionDef) else ""
    if inside_class:
        attributes["class"] = name.removeprefix(f"{module}.").rpartition(".")[0]
    declared = tuple((key, value) for key, value in sorted(attributes.items()) if value)
    return Documented(name, module, kind, signature, sentence, rest, declared)
