"""Plausible slips in a Python source: bounds by one, checks left out, orders of stores, signs and counters.

Every mutation is a piece of one file replaced by another text, so that the rest keeps its lines.
"""

import ast
import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_COMPARISONS: dict[type, tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
}  # fmt: skip
_OPERATORS: dict[type, tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
    ast.BitXor: ("^", "|"),
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """One slip.

    Attributes:
        file: relative to the repository.
        line: its first, from 1.
        was: the text that is replaced.
        becomes: what replaces it.
        begin: where, as an offset in the file's characters.
        kind: what sort of slip it is.
    """

    file: str
    line: int
    was: str
    becomes: str
    begin: int
    kind: str

    def apply(self, source: str) -> str:
        """The file with the slip in it."""
        assert source[self.begin : self.begin + len(self.was)] == self.was
        return source[: self.begin] + self.becomes + source[self.begin + len(self.was) :]

    def key(self, source: str) -> str:
        """What names it as long as the file is the same."""
        return hashlib.sha256(f"{self.file}\0{self.apply(source)}".encode()).hexdigest()[:16]

    def words(self) -> str:
        """What it does, in a line."""
        return f"{' '.join(self.was.split())} → {' '.join(self.becomes.split())}".strip()


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, source: str) -> None:
        self.file = file
        self.source = source
        self.found: list[Mutation] = []
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def _offset(self, line: int, column: int) -> int:
        """``column`` counts UTF-8 bytes, as ast does."""
        start = self._starts[line - 1]
        text = self.source[start : self._starts[line]].encode()[:column].decode()
        return start + len(text)

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin = self._offset(node.lineno, node.col_offset)
        return begin, self._offset(node.end_lineno, node.end_col_offset)

    def _note(self, begin: int, end: int, becomes: str, kind: str) -> None:
        line = bisect_right(self._starts, begin)
        self.found.append(Mutation(self.file, line, self.source[begin:end], becomes, begin, kind))

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str, kind: str) -> None:
        """Replace the operator between two expressions."""
        begin, end = self._span(left)[1], self._span(right)[0]
        at = self.source.find(old, begin, end)
        if at >= 0:
            self._note(at, at + len(old), new, kind)

    def visit_Compare(self, node: ast.Compare) -> None:
        for operator, (left, right) in zip(node.ops, pairwise([node.left, *node.comparators]), strict=True):
            self._between(left, right, *_COMPARISONS[type(operator)], "comparison")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        pair = _OPERATORS.get(type(node.op))
        texts = any(
            isinstance(side, ast.Constant | ast.JoinedStr) and _is_text(side) for side in (node.left, node.right)
        )
        if pair and not texts:
            self._between(node.left, node.right, *pair, "operator")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in pairwise(node.values):
            self._between(left, right, f" {old} ", f" {new} ", "logic")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            begin, _ = self._span(node)
            self._note(begin, begin + len("not "), "", "logic")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is int:
            self._note(*self._span(node), str(node.value + 1), "number")
        elif isinstance(node.value, bool):
            self._note(*self._span(node), str(not node.value), "truth")

    def visit_Subscript(self, node: ast.Subscript) -> None:
        # The context's records are arrays of one: another index fails at once, and tells nothing of the tests.
        self.visit(node.value)
        if not isinstance(node.slice, ast.Constant):
            self.visit(node.slice)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        pair = _OPERATORS.get(type(node.op))
        if pair:
            self._between(node.target, node.value, pair[0] + "=", pair[1] + "=", "operator")
        self._leave_out(node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not isinstance(node.targets[0], ast.Name | ast.Tuple):
            self._leave_out(node)
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says is no behaviour."""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        # Decorators of dataclasses say what is typed and checked, not done.
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if _logs(node):
            return
        if isinstance(node.value, ast.Call | ast.Await):
            self._leave_out(node)
        if not isinstance(node.value, ast.Constant):
            self.visit(node.value)

    def _leave_out(self, node: ast.stmt) -> None:
        self._note(*self._span(node), "pass", "left out")

    def visit_If(self, node: ast.If) -> None:
        for truth in ("True", "False"):
            self._note(*self._span(node.test), truth, "check")
        self._block(node.body)
        self._block(node.orelse)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._block(node.body)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._block(node.body)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._block(node.body)
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def _block(self, body: list[ast.stmt]) -> None:
        """Two stores, or calls, one behind the other, the other way round."""
        for first, second in pairwise(body):
            if _acts(first) and _acts(second):
                (begin, one_end), (two_begin, end) = self._span(first), self._span(second)
                gap = self.source[one_end:two_begin]
                self._note(begin, end, self.source[two_begin:end] + gap + self.source[begin:one_end], "order")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and not isinstance(node.value, int))


def _logs(statement: ast.Expr) -> bool:
    """What the log says is for people, and is read by few tests."""
    called = statement.value.func if isinstance(statement.value, ast.Call) else None
    return isinstance(called, ast.Attribute) and ast.unparse(called.value).split(".")[-1] == "log"


def _acts(statement: ast.stmt) -> bool:
    """Whether others may see that it is done."""
    if isinstance(statement, ast.Assign | ast.AugAssign):
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        return isinstance(target, ast.Attribute | ast.Subscript)
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call | ast.Await)
        and not _logs(statement)
    )


def mutations(file: str, source: str) -> Iterator[Mutation]:
    """Every slip that is tried of a file."""
    finder = _Finder(file, source)
    finder.visit(ast.parse(source))
    yield from finder.found
