"""Which mutants there are, and which are drawn: mutmut makes them, a fixed seed chooses among them."""

from __future__ import annotations

import ast
import hashlib
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import libcst
from libcst.metadata import MetadataWrapper
from mutmut.mutation.file_mutation import NEVER_MUTATE_FUNCTION_NAMES, MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

BY_HAND = "by_hand"


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        room: the part of the product it lies in.
        file: relative to the checkout.
        line: where the change begins, counted from 1.
        lines: first and last line of what a test must run to notice: the statement it lies in; for the head of a
            function all of the function, for what is outside of functions all of the file; ``None``: nobody knows.
        where: class and function around it, dotted; empty: the module.
        operator: mutmut's name of the kind of change.
        change: what went and what came, in one line.
        code: the whole mutated file.
    """

    room: str
    file: str
    line: int
    lines: tuple[int, int] | None
    where: str
    operator: str
    change: str
    code: str

    @property
    def name(self) -> str:
        """A short name that stays as long as the file does."""
        return hashlib.sha256(f"{self.file}\n{self.code}".encode()).hexdigest()[:10]

    @property
    def same(self) -> tuple[str, str, str]:
        """What it has in common with itself after its file was moved or changed elsewhere."""
        return (self.where, self.operator, self.change)


class _Visitor(MutationVisitor):
    """mutmut's, which leaves decorated functions out for the sake of its own way to run; here they are mutated."""

    def _skip_node_and_children(self, node: libcst.CSTNode) -> bool:
        if isinstance(node, libcst.FunctionDef) and node.decorators:
            return node.name.value in NEVER_MUTATE_FUNCTION_NAMES
        if isinstance(node, libcst.Raise | libcst.Assert):
            return True  # the words of errors, and what is there for the type checker
        return super()._skip_node_and_children(node)


def mutants_of(root: Path, room: str, file: str) -> list[Mutant]:
    """Return all mutants of a file, in the order of its lines."""
    source = (root / file).read_text(encoding="utf-8")
    wrapper = MetadataWrapper(libcst.parse_module(source))
    statements = _statements(source)
    known = any(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(source)))  # by what a test runs
    found, seen = [], {source}
    for kind, operator in mutation_operators:
        visitor = _Visitor([(kind, operator)], IgnoredCode(set(), set(), set()))
        module = wrapper.visit(visitor)
        for mutation in visitor.mutations:
            code = module.deep_replace(mutation.original_node, mutation.mutated_node).code
            if code in seen or not _compiles(code, file):
                continue
            seen.add(code)
            line, change = _difference(source, code)
            around = max(s for s in statements if s.first <= line <= s.last)
            name = operator.__name__.removeprefix("operator_")
            found.append(Mutant(room, file, line, around.lines if known else None, around.where, name, change, code))
    return sorted(found, key=lambda m: (m.line, m.operator, m.change))


def by_hand(root: Path, rooms: Mapping[str, Sequence[str]], file: Path) -> list[Mutant]:
    """Return the mutants that a TOML file describes: an old text, which one file of the rooms holds once, and a new."""
    texts = {f: (root / f).read_text(encoding="utf-8") for files in rooms.values() for f in files}
    found = []
    for entry in tomllib.loads(file.read_text(encoding="utf-8"))["mutant"]:
        holding = [f for f, text in texts.items() if text.count(entry["old"]) == 1]
        if len(holding) != 1:
            print(f"{file.name}: left out, not in exactly one file: {entry['old'].strip()}", flush=True)
            continue
        source = texts[holding[0]]
        code = source.replace(entry["old"], entry["new"])
        line, change = _difference(source, code)
        around = max(s for s in _statements(source) if s.first <= line <= s.last)
        room = next(name for name, files in rooms.items() if holding[0] in files)
        found.append(Mutant(room, holding[0], line, around.lines, around.where, BY_HAND, change, code))
    return found


def draw(by_file: Mapping[str, Sequence[Mutant]], count: int, seed: int) -> list[Mutant]:
    """Draw ``count`` mutants: of each file a share by its lines that can be mutated, of a line one, then a second.

    On a line the kind of change is drawn first, so that a call with many arguments weighs no more than a comparison.
    """
    lines = {file: len({m.line for m in mutants}) for file, mutants in by_file.items()}
    count = min(count, sum(len(mutants) for mutants in by_file.values()))
    drawn: list[Mutant] = []
    for file, share in _shares(lines, count).items():
        rng = random.Random(f"{seed} {file}")
        left = list(by_file[file])
        for _ in range(min(share, len(left))):
            used = {m.line for m in drawn if m.file == file}
            line = rng.choice(sorted({m.line for m in left} - used) or sorted({m.line for m in left}))
            kind = rng.choice(sorted({m.operator for m in left if m.line == line}))
            mutant = rng.choice([m for m in left if (m.line, m.operator) == (line, kind)])
            left.remove(mutant)
            drawn.append(mutant)
    return sorted(drawn, key=lambda m: hashlib.sha256(f"{seed} {m.name}".encode()).digest())  # any part is a sample


def _shares(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Split ``count`` by sizes, the rest to the largest remainders."""
    whole = sum(sizes.values())
    exact = {name: count * size / whole for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda n: shares[n] - exact[n])[: count - sum(shares.values())]:
        shares[name] += 1
    return shares


@dataclass(frozen=True, order=True)
class _Statement:
    """A statement, of a compound one its head: its lines, the lines to run, and what it lies in."""

    first: int
    last: int
    lines: tuple[int, int]
    where: str


def _statements(source: str) -> list[_Statement]:
    whole = (1, source.count("\n") + 1)

    def walk(body: Sequence[ast.stmt], where: tuple[str, ...], in_function: bool) -> Iterator[_Statement]:
        for node in body:
            inner = [getattr(node, part, []) for part in ("body", "orelse", "finalbody")]
            inner += [handler.body for handler in getattr(node, "handlers", [])]
            inner += [case.body for case in getattr(node, "cases", [])]
            function, named = isinstance(node, ast.FunctionDef), isinstance(node, ast.FunctionDef | ast.ClassDef)
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            end = node.end_lineno or first
            last = max(first, inner[0][0].lineno - 1) if inner[0] else end
            lines = (first, last) if in_function else (first, end) if function else whole
            yield _Statement(first, last, lines, ".".join(where))
            for part in inner:
                yield from walk(part, (*where, node.name) if named else where, in_function or function)

    return list(walk(ast.parse(source).body, (), False))


def _difference(source: str, code: str) -> tuple[int, str]:
    """Return where two texts begin to differ, and the lines that do, in one line."""
    old, new = source.splitlines(), code.splitlines()
    changes = [c for c in SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if c[0] != "equal"]
    gone = [line.strip() for _, a, b, _, _ in changes for line in old[a:b]]
    come = [line.strip() for _, _, _, c, d in changes for line in new[c:d]]
    return changes[0][1] + 1, f"{' '.join(gone)} => {' '.join(come)}"


def _compiles(code: str, file: str) -> bool:
    try:
        compile(code, file, "exec")
    except SyntaxError:
        return False
    return True
