"""Programs: a BPF program that can be run, tested and looked at from Python.

    program = bpf.load("firewall.o", program="xdp_main")
    result = program.run(packet)
    assert result == XDP_DROP and program.maps["dropped"][0] == 1

The programs of one object share its maps, variables and helpers, see jitlink.bpf.loader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from jitlink.bpf.contexts import Context, Data, PacketContext, SkbContext, XdpContext
from jitlink.bpf.disassembler import disassemble
from jitlink.bpf.instructions import Instructions
from jitlink.bpf.kept_contexts import NO_FIELDS
from jitlink.bpf.listing import Comments
from jitlink.bpf.machine import DEFAULT_BUDGET, Code
from jitlink.bpf.many import Packets, Progress, Results, run_many
from jitlink.bpf.observation import Coverage, Hook, Line, lcov
from jitlink.bpf.program_code import ProgramCode
from jitlink.bpf.replace import Versions, replace_function
from jitlink.bpf.sections import ContextKind, ProgramType
from jitlink.bpf.syntax import Syntax
from jitlink.bpf.translation import EXPLAINED
from jitlink.bpf.verification import Report
from jitlink.bpf.verifier import verify
from jitlink.errors import ClosedError, UsageError

if TYPE_CHECKING:
    from jitlink.bpf.helpers import Host
    from jitlink.bpf.loader import BpfObject
    from jitlink.bpf.maps import Maps
    from jitlink.bpf.variables import Globals
    from jitlink.inputs import Source

Function = TypeVar("Function", bound=Callable[..., Any])

XDP_ACTIONS = ("XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT")
TC_ACTIONS = {
    -1: "TC_ACT_UNSPEC",
    0: "TC_ACT_OK",
    1: "TC_ACT_RECLASSIFY",
    2: "TC_ACT_SHOT",
    3: "TC_ACT_PIPE",
    4: "TC_ACT_STOLEN",
    5: "TC_ACT_QUEUED",
    6: "TC_ACT_REPEAT",
    7: "TC_ACT_REDIRECT",
    8: "TC_ACT_TRAP",
}
PACKET_CONTEXTS: dict[ContextKind, type[PacketContext]] = {ContextKind.XDP: XdpContext, ContextKind.SKB: SkbContext}
TC_TYPES = ("SCHED_CLS", "SCHED_ACT")


@dataclass(eq=False, slots=True)
class Result:
    """What a run came to.

    Attributes: retval (what the program returned: of packet programs the lower 32 bits, as the kernel
    reads it, else all 64); r0 (all 64 bits); data (the packet or memory as it is now); instructions (how
    many it took); metadata (bytes in front of a packet); fields (of the context, by name, afterwards);
    action (the name of what XDP or the traffic control does with the packet, or ""). Compares and
    converts like retval.
    """

    retval: int
    r0: int
    data: bytes
    instructions: int
    metadata: bytes
    fields: Mapping[str, Any]
    action: str = ""

    def __int__(self) -> int:
        return self.retval

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Result):
            return self.retval == other.retval
        return self.retval == other if isinstance(other, int) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.retval)

    def __repr__(self) -> str:
        shown = f"{self.action} ({self.retval})" if self.action else str(self.retval)
        return f"<result {shown}: {len(self.data)} bytes of data, {self.instructions} instructions>"


class Program:
    """A loaded program.

    Attributes: name; section; type (ProgramType); object (the object that it belongs to, with the other
    programs); maps, globals, host (of the object); context (the ContextKind that it is run on).
    """

    def __init__(
        self, object: BpfObject, name: str, section: str, type: ProgramType, context: ContextKind, linked: ProgramCode
    ) -> None:
        self.object = object
        self.name = name
        self.section = section
        self.type = type
        self.context = context
        self.linked = linked
        self._context_class = PACKET_CONTEXTS.get(context)
        self._versions = Versions(linked, {})
        self._replacing = Lock()

    @property
    def context_class(self) -> type[PacketContext] | None:
        """What the context is that it is run on, None for plain memory."""
        return self._context_class

    @property
    def code(self) -> Code:
        """The code, as a machine runs it and a prog array holds it."""
        return self.linked.code

    @property
    def instructions(self) -> Instructions:
        """The instructions, in columns."""
        return self.linked.instructions

    @property
    def maps(self) -> Maps:
        """The maps of the object, by name."""
        return self.object.maps

    @property
    def globals(self) -> Globals:
        """The variables of the object, by name, and behind them those that replaced functions have brought."""
        return self.object.globals.joined(self._versions.variables)

    @property
    def host(self) -> Host:
        """What helpers know and remember: clocks, randomness, routes, traces, redirects."""
        return self.object.host

    @property
    def license(self) -> str:
        """The license that the object states."""
        return self.object.license

    @property
    def trace(self) -> list[str]:
        """The lines that programs of the object have printed, the last ones."""
        return list(self.object.host.trace)

    def helper(self, key: int | str) -> Callable[[Function], Function]:
        """Replace or add a helper by number or name: `@program.helper("ktime_get_ns")`.

        The function is called with the machine and as many of r1 to r5 as it has parameters; what it
        returns is r0.
        """
        return self.object.helpers.helper(key)

    def kfunc(self, name: str) -> Callable[[Function], Function]:
        """Replace a function of the kernel by name; the function is as for helper."""
        return self.object.helpers.kfunc(name)

    def run(
        self,
        data: Data = b"",
        *,
        ctx: Mapping[str, Any] | None = None,
        budget: int = DEFAULT_BUDGET,
        hook: Hook | None = None,
    ) -> Result:
        """Run the program on a packet, or on plain memory whose address is in r1 and whose length is in r2.

        data: the packet, or the memory. ctx: fields of struct xdp_md or struct __sk_buff by name, and for
        both metadata, head_room and tail_room (see jitlink.bpf.contexts). budget: how many instructions
        the run may take. hook: called before every instruction. Raises BpfFault where the program breaks
        a rule of the machine, UsageError for fields that there are not, ClosedError.
        """
        object, sort = self.object, self._context_class
        if object.closed:
            raise self._closed()
        if ctx and sort is None:
            raise UsageError(f"{self.name} runs on plain memory, which has no field {next(iter(ctx))}")
        machine, contexts = object.machine, object.contexts
        context = contexts.take(sort, data, ctx or NO_FIELDS)
        before = machine.context, machine.packet_bounds, machine.hook
        machine.context, machine.packet_bounds = context, context.packet_bounds
        if hook is not None:
            machine.hook = hook
        try:
            if sort is None:
                address, size = context.arguments
                r0 = machine.run(self.linked.code, address, size, budget=budget)
                return Result(r0, r0, context.data, machine.instructions, b"", NO_FIELDS)
            r0 = machine.run(self.linked.code, *context.arguments, budget=budget)
            return self._result(r0, context, machine.instructions)
        finally:
            machine.context, machine.packet_bounds, machine.hook = before
            contexts.put_back(context)

    def run_many(
        self,
        packets: Packets,
        *,
        ctx: Mapping[str, Any] | None = None,
        budget: int = DEFAULT_BUDGET,
        progress: Progress | None = None,
    ) -> Results:
        """Run the program on each of many packets, natively (jitlink.bpf.many). Many threads can do so at once.

        packets: a sequence of bytes; an array uint8[packets, size]; or a capture (pcap), as a path or as bytes. ctx:
        fields of the context, the same for all. budget: of each run. progress: called now and then with how many
        packets were run, and how many there are. A packet on which the program faults has retval 0, and the fault
        is in the results. Raises UsageError, InputError for a bad capture, ClosedError, and what helpers raise.
        """
        self._require_open()
        return run_many(self, packets, ctx=ctx, budget=budget, progress=progress)

    def replace(self, function: str, *sources: Source) -> None:
        """Put a new version of one of the program's functions in the place of the old one, while others run it.

        function: its name, there and in the new objects. sources: as for bpf.load. The new version uses the maps of
        the program, by name. Runs that begin from here on enter it (jitlink.bpf.replace). Raises LinkError, and
        then nothing has changed; UsageError for a function or map that there is not.
        """
        self._require_open()
        with self._replacing:
            self._versions = replace_function(self, self._versions, function, sources)

    def take_over(self, made: ProgramCode) -> None:
        """Be another code from here on. Raises LinkError where it cannot be verified or compiled."""
        self.object.make_ready(Program(self.object, self.name, self.section, self.type, self.context, made))
        self.linked = made

    def call(self, *arguments: int, budget: int = DEFAULT_BUDGET) -> int:
        """Call the program as a function, with r1 to r5 as they are given; returns r0, unsigned.

        Raises BpfFault where the program breaks a rule of the machine, ClosedError.
        """
        self._require_open()
        self.object.contexts.drop()
        return self.object.machine.run(self.linked.code, *arguments, budget=budget)

    def _require_open(self) -> None:
        if self.object.closed:
            raise self._closed()

    def _closed(self) -> ClosedError:
        return ClosedError(f"the object of the program {self.name} is closed")

    def _result(self, r0: int, context: Context, instructions: int) -> Result:
        assert isinstance(context, PacketContext)
        retval = r0 & 0xFFFF_FFFF
        return Result(retval, r0, context.data, instructions, context.metadata, context.values(), self._action(retval))

    def _action(self, retval: int) -> str:
        if self.type.name == "XDP":
            return XDP_ACTIONS[retval] if retval < len(XDP_ACTIONS) else ""
        if self.type.name in TC_TYPES:
            return TC_ACTIONS.get((retval ^ 0x8000_0000) - 0x8000_0000, "")
        return ""

    def verify(self, *, kernel_rules: bool = True) -> Report:
        """Check the program and report every fault; kernel_rules: also what only the Linux kernel refuses."""
        helpers = self.object.helpers
        return verify(
            self.instructions,
            helpers={*helpers.by_number, *EXPLAINED},
            kfuncs=set(self.object.machine.kfuncs),
            maps=(),
            lines=self.code.line,
            name=self.name,
            kernel_rules=kernel_rules,
        )

    def disassemble(self, syntax: Syntax = "llvm") -> str:
        """Write the program as assembly, with its functions, what it refers to, and its source lines."""
        functions = set(self.linked.functions.values())
        named = {index: name for index, name in self.linked.references.items() if name not in functions}
        comments = Comments(self.instructions, named, self.linked.lines.lines(len(self.instructions)))
        return disassemble(self.instructions, syntax, labels=self.linked.functions, comments=comments)

    def lcov(self, coverage: Coverage, *, test: str = "") -> str:
        """Write what a coverage hook has counted of this program as an lcov tracefile."""
        functions = ((name, index) for index, name in self.linked.functions.items())
        counts = coverage.counts(self.code)
        return lcov(counts, self.code, self._source_line, functions=functions, test=test)

    def _source_line(self, index: int) -> Line | None:
        line = self.linked.lines(index)
        return None if line is None else (line.file, line.line)

    def __repr__(self) -> str:
        return f"<program {self.name!r} ({self.type.name}): {len(self.instructions)} instruction slots>"
