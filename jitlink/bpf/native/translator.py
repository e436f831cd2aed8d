"""From native helpers, as they are written (dialect.py), to LLVM IR.

Every variable of a function has a place on LLVM's stack, which LLVM makes SSA values of. Short-circuit conditions and
choices are branches. Addresses are numbers, made pointers where memory is accessed.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Container, Sequence
from types import ModuleType
from typing import Any

from jitlink.bpf.native import dialect
from jitlink.bpf.native.dialect import EXPORTED, INLINED, MASK, Memory

OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.FloorDiv: "udiv", ast.Mod: "urem", ast.BitAnd: "and",
    ast.BitOr: "or", ast.BitXor: "xor", ast.LShift: "shl", ast.RShift: "lshr",
}  # fmt: skip
CONDITIONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "ult", ast.LtE: "ule", ast.Gt: "ugt", ast.GtE: "uge",
}  # fmt: skip
PAUSES = {"x86_64": "call void @llvm.x86.sse2.pause()", "aarch64": "call void @llvm.aarch64.hint(i32 1)"}
"""What lets the processor know that a thread waits; nothing on other machines."""
FEATURES = {"riscv64": ' "target-features"="+m,+a"'}
"""What LLVM may use of a machine beyond the base that its triple stands for: RISC-V's atomic operations."""
_DECLARATIONS = {  # by what a text has in it that needs one
    "@llvm.memmove": "declare void @llvm.memmove.p0.p0.i64(ptr, ptr, i64, i1)",
    "@llvm.memset": "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
    "@llvm.x86.sse2.pause": "declare void @llvm.x86.sse2.pause()",
    "@llvm.aarch64.hint": "declare void @llvm.aarch64.hint(i32)",
    "@sched_yield": "declare i32 @sched_yield()",
    "@clock_gettime": "declare i32 @clock_gettime(i32, ptr)",
}
_INTRINSICS = {  # name: its lines, over the arguments {0} and on, as pointers {p0} and on; the result is {result}
    "acquire": "{result} = load atomic i64, ptr {p0} acquire, align 8",
    "release": "store atomic i64 {1}, ptr {p0} release, align 8",
    "release32": "{result}.cut = trunc i64 {1} to i32\nstore atomic i32 {result}.cut, ptr {p0} release, align 4",
    "fence_acquire": "fence acquire",
    "fence_release": "fence release",
    "swap_if": "{result}.pair = cmpxchg ptr {p0}, i64 {1}, i64 {2} acq_rel monotonic\n"
    "{result}.was = extractvalue {{ i64, i1 }} {result}.pair, 1\n{result} = zext i1 {result}.was to i64",
    "fetch_add": "{result} = atomicrmw add ptr {p0}, i64 {1} monotonic",
    "copy": "call void @llvm.memmove.p0.p0.i64(ptr {p0}, ptr {p1}, i64 {2}, i1 false)",
    "clear": "call void @llvm.memset.p0.i64(ptr {p0}, i8 0, i64 {1}, i1 false)",
    "sched_yield": "call i32 @sched_yield()",
    "clock_gettime": "{result}.number = trunc i64 {0} to i32\ncall i32 @clock_gettime(i32 {result}.number, ptr {p1})",
}


def translate(modules: Sequence[ModuleType], machine: str, only: Container[str] | None = None) -> str:
    """Make LLVM IR of the functions of Python modules, which may call each other.

    machine: as platform.machine names it; only: the names of the functions to make, None for all. Raises OSError
    where there is no source of a module, AssertionError for what is not in the language.
    """
    functions = [
        _Function(node, vars(module), machine).text()
        for module in modules
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.FunctionDef) and (only is None or node.name in only)
    ]
    text = "\n".join(functions)
    return "\n".join([*(line for name, line in _DECLARATIONS.items() if name in text), text])


def exported_names(module: ModuleType) -> list[str]:
    """The functions of a module that are called from outside."""
    return [name for name, each in vars(module).items() if getattr(each, EXPORTED, "") == module.__name__]


def _marks(node: ast.FunctionDef) -> set[str]:
    return {each.id for each in node.decorator_list if isinstance(each, ast.Name)}


class _Function:
    """One function in the making."""

    def __init__(self, node: ast.FunctionDef, names: dict[str, Any], machine: str) -> None:
        self.node = node
        self.names = names
        self.machine = machine
        self.lines: list[str] = []
        self.variables: dict[str, None] = {}
        self.loops: list[tuple[str, str]] = []
        self.marks = _marks(node)
        self._count = 0
        self._ended = False

    def text(self) -> str:
        """The function as IR."""
        parameters = [each.arg for each in self.node.args.args]
        for name in parameters:
            self._place(name)
        self._body(self.node.body)
        if not self._ended:
            self._end("ret void" if self._is_void(self.node) else "unreachable")
        result = "void" if self._is_void(self.node) else "i64"
        linkage = "" if EXPORTED in self.marks else "internal "
        attributes = "alwaysinline nounwind" if INLINED in self.marks else "nounwind"
        attributes += FEATURES.get(self.machine, "")
        listed = ", ".join(f"i64 %{name}" for name in parameters)
        head = [f"define {linkage}{result} @{self.node.name}({listed}) {attributes} {{"]
        head += [f"%{name}.at = alloca i64" for name in self.variables]
        head += [f"store i64 %{name}, ptr %{name}.at" for name in parameters]
        return "\n".join([*head, *self.lines, "}"])

    @staticmethod
    def _is_void(node: ast.FunctionDef) -> bool:
        return isinstance(node.returns, ast.Constant) and node.returns.value is None

    # Text

    def _add(self, line: str) -> None:
        if self._ended:
            # What follows a return is not reached, but has to be in a block.
            self._label(self._new("behind"))
        self.lines.append(line)

    def _set(self, line: str) -> str:
        name = f"%{self._new('v')}"
        self._add(f"{name} = {line}")
        return name

    def _new(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _label(self, name: str) -> None:
        """Begin a block; control falls into it."""
        if not self._ended:
            self.lines.append(f"br label %{name}")
        self.lines.append(f"{name}:")
        self._ended = False

    def _end(self, line: str) -> None:
        self._add(line)
        self._ended = True

    def _place(self, name: str) -> str:
        self.variables[name] = None
        return f"%{name}.at"

    def _refusal(self, node: ast.AST) -> AssertionError:
        return AssertionError(f"{self.node.name}: {ast.unparse(node)} is not in the language of native helpers")

    # Statements

    def _body(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                return
            case ast.Expr(value=ast.Call() as call):
                self._call(call, wanted=False)
            case ast.Assign(targets=[target], value=value):
                self._assign(target, self._value(value))
            case ast.AugAssign(target=target, op=operator, value=value):
                old = self._value(target)
                self._assign(target, self._combine(operator, old, self._value(value), node))
            case ast.If(test=test, body=body, orelse=orelse):
                self._if(test, body, orelse)
            case ast.While(test=test, body=body, orelse=[]):
                self._while(test, body)
            case ast.For(target=ast.Name(id=name), body=body, orelse=[]):
                self._for(name, node.iter, body)
            case ast.Return(value=None):
                self._end("ret void")
            case ast.Return(value=ast.expr() as value):
                self._end(f"ret i64 {self._value(value)}")
            case ast.Break():
                self._end(f"br label %{self.loops[-1][1]}")
            case ast.Continue():
                self._end(f"br label %{self.loops[-1][0]}")
            case _:
                raise self._refusal(node)

    def _assign(self, target: ast.expr, value: str) -> None:
        if isinstance(target, ast.Name):
            self._add(f"store i64 {value}, ptr {self._place(target.id)}")
            return
        memory, pointer = self._accessed(target)
        bits = 8 * memory.size
        if bits < 64:
            value = self._set(f"trunc i64 {value} to i{bits}")
        atomic, order = ("atomic ", " monotonic") if memory.shared else ("", "")
        self._add(f"store {atomic}i{bits} {value}, ptr {pointer}{order}, align {memory.size if memory.shared else 1}")

    def _if(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt]) -> None:
        yes, no, end = self._new("then"), self._new("else"), self._new("end")
        self._branch(test, yes, no if orelse else end)
        self._label(yes)
        self._body(body)
        if orelse:
            if not self._ended:
                self._end(f"br label %{end}")
            self._label(no)
            self._body(orelse)
        self._label(end)

    def _while(self, test: ast.expr, body: list[ast.stmt]) -> None:
        again, inside, end = self._new("while"), self._new("round"), self._new("done")
        self._label(again)
        self._branch(test, inside, end)
        self._label(inside)
        self._loop(body, again, end)
        if not self._ended:
            self._end(f"br label %{again}")
        self._label(end)

    def _for(self, name: str, counted: ast.expr, body: list[ast.stmt]) -> None:
        match counted:
            case ast.Call(func=ast.Name(id="range"), args=[last], keywords=[]):
                first: ast.expr = ast.Constant(0)
            case ast.Call(func=ast.Name(id="range"), args=[first, last], keywords=[]):
                pass
            case _:
                raise self._refusal(counted)
        end_at = self._place(self._new("last"))
        self._assign(ast.Name(name), self._value(first))
        self._add(f"store i64 {self._value(last)}, ptr {end_at}")
        again, inside, step, end = (self._new(each) for each in ("for", "round", "step", "done"))
        self._label(again)
        reached = self._set(f"load i64, ptr {end_at}")
        goes = self._set(f"icmp ult i64 {self._value(ast.Name(name))}, {reached}")
        self._end(f"br i1 {goes}, label %{inside}, label %{end}")
        self._label(inside)
        self._loop(body, step, end)
        self._label(step)
        self._assign(ast.Name(name), self._set(f"add i64 {self._value(ast.Name(name))}, 1"))
        self._end(f"br label %{again}")
        self._label(end)

    def _loop(self, body: list[ast.stmt], again: str, end: str) -> None:
        self.loops.append((again, end))
        self._body(body)
        self.loops.pop()

    # Conditions

    def _branch(self, test: ast.expr, yes: str, no: str) -> None:
        """Go where a condition says; the block ends."""
        match test:
            case ast.Constant(value=True):
                self._end(f"br label %{yes}")
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._branch(operand, no, yes)
            case ast.BoolOp(op=operator, values=values):
                for value in values[:-1]:
                    further = self._new("and" if isinstance(operator, ast.And) else "or")
                    if isinstance(operator, ast.And):
                        self._branch(value, further, no)
                    else:
                        self._branch(value, yes, further)
                    self._label(further)
                self._branch(values[-1], yes, no)
            case ast.Compare(left=left, ops=[compared], comparators=[right]) if type(compared) in CONDITIONS:
                predicate = CONDITIONS[type(compared)]
                one, other = self._value(left), self._value(right)
                holds = self._set(f"icmp {predicate} i64 {one}, {other}")
                self._end(f"br i1 {holds}, label %{yes}, label %{no}")
            case ast.Compare():
                raise self._refusal(test)
            case _:
                holds = self._set(f"icmp ne i64 {self._value(test)}, 0")
                self._end(f"br i1 {holds}, label %{yes}, label %{no}")

    # Values

    def _value(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=bool() | int() as number):
                return _number(int(number))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._set(f"sub i64 0, {self._value(operand)}")
            case ast.Name(id=name) if name in self.variables:
                return self._set(f"load i64, ptr %{name}.at")
            case ast.Name(id=name) if isinstance(self.names.get(name), int):
                return _number(int(self.names[name]))
            case ast.BinOp(left=left, op=operator, right=right):
                first = self._value(left)
                return self._combine(operator, first, self._value(right), node)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._choose(test, body, orelse)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return self._choose(node, ast.Constant(1), ast.Constant(0))
            case ast.Subscript():
                return self._load(node)
            case ast.Call():
                return self._call(node, wanted=True)
            case _:
                raise self._refusal(node)

    def _combine(self, operator: ast.operator, first: str, second: str, node: ast.AST) -> str:
        if type(operator) not in OPERATORS:
            raise self._refusal(node)
        return self._set(f"{OPERATORS[type(operator)]} i64 {first}, {second}")

    def _choose(self, test: ast.expr, body: ast.expr, orelse: ast.expr) -> str:
        chosen = self._place(self._new("chosen"))
        yes, no, end = self._new("then"), self._new("else"), self._new("end")
        self._branch(test, yes, no)
        self._label(yes)
        self._add(f"store i64 {self._value(body)}, ptr {chosen}")
        self._end(f"br label %{end}")
        self._label(no)
        self._add(f"store i64 {self._value(orelse)}, ptr {chosen}")
        self._label(end)
        return self._set(f"load i64, ptr {chosen}")

    def _accessed(self, node: ast.expr) -> tuple[Memory, str]:
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=address):
                memory = self.names.get(name)
                if isinstance(memory, Memory):
                    return memory, self._pointer(self._value(address))
                raise self._refusal(node)
            case _:
                raise self._refusal(node)

    def _pointer(self, address: str) -> str:
        return self._set(f"inttoptr i64 {address} to ptr")

    def _load(self, node: ast.expr) -> str:
        memory, pointer = self._accessed(node)
        bits = 8 * memory.size
        if memory.shared:
            value = self._set(f"load atomic i{bits}, ptr {pointer} monotonic, align {memory.size}")
        else:
            value = self._set(f"load i{bits}, ptr {pointer}, align 1")
        return value if bits == 64 else self._set(f"zext i{bits} {value} to i64")

    def _call(self, node: ast.Call, *, wanted: bool) -> str:
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise self._refusal(node)
        called = self.names.get(node.func.id)
        name = node.func.id
        if not inspect.isfunction(called):
            raise self._refusal(node)
        arguments = [self._value(each) for each in node.args]
        if called.__module__ == dialect.__name__:
            return self._intrinsic(name, arguments)
        passed = ", ".join(f"i64 {each}" for each in arguments)
        if wanted:
            return self._set(f"call i64 @{name}({passed})")
        returns = "void" if called.__annotations__["return"] == "None" else "i64"
        self._add(f"call {returns} @{name}({passed})")
        return ""

    def _intrinsic(self, name: str, arguments: list[str]) -> str:
        result = f"%{self._new('v')}"
        if name == "pause":
            lines = PAUSES.get(self.machine, "")
        else:
            lines = _INTRINSICS[name]
            pointers = {f"p{k}": self._pointer(each) for k, each in enumerate(arguments) if f"{{p{k}}}" in lines}
            lines = lines.format(*arguments, result=result, **pointers)
        for line in lines.splitlines():
            self._add(line)
        return result


def _number(value: int) -> str:
    """A constant of IR, which has a sign."""
    value &= MASK
    return str(value - (1 << 64) if value >> 63 else value)
