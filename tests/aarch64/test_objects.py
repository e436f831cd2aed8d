"""Objects for AArch64 as compilers write them: read, linked near to and far from what they refer to, and run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from unicorn import arm64_const, unicorn_const
from unicorn.unicorn_py3 import Uc

import jitlink
from jitlink import Image, UnsupportedInput
from jitlink.arches import architecture, host_architecture
from jitlink.joining import join
from jitlink.linker import Options, link
from jitlink.passes.needs import Needs
from jitlink.runtime.functions import named_places
from tests import programs
from tests.toolchain import assemble, llvm_object, zig_cc

BASE = 0x2345_6000
FAR = 0x7F00_1234_5000
STACK, RETURN_TO = 0x1000, 0x4000
TARGET, LLVM_TARGET = "aarch64-linux-gnu", "aarch64-unknown-linux-gnu"
X0, SP, LR = arm64_const.UC_ARM64_REG_X0, arm64_const.UC_ARM64_REG_SP, arm64_const.UC_ARM64_REG_LR

IR = """
@table = global [4 x i64] [i64 3, i64 1, i64 4, i64 1]
@pointer = global ptr getelementptr ([4 x i64], ptr @table, i64 0, i64 2)
@elsewhere = external global i64
declare i64 @outside(i64)
define i64 @pick(i64 %n) {
  %low = and i64 %n, 3
  %place = getelementptr [4 x i64], ptr @table, i64 0, i64 %low
  %value = load i64, ptr %place
  %held = load ptr, ptr @pointer
  %second = load i64, ptr %held
  %sum = add i64 %value, %second
  ret i64 %sum
}
define i64 @entry(i64 %n) {
  %called = call i64 @outside(i64 %n)
  %picked = call i64 @pick(i64 %called)
  %other = load i64, ptr @elsewhere
  %sum = add i64 %picked, %other
  switch i64 %n, label %default [ i64 1, label %one
                                  i64 2, label %two
                                  i64 3, label %three
                                  i64 4, label %one
                                  i64 5, label %two ]
one:
  ret i64 %sum
two:
  %twice = mul i64 %sum, 2
  ret i64 %twice
three:
  ret i64 33
default:
  ret i64 0
}
"""


def run(
    image: Image, name: str, argument: int, outside: dict[int, Callable[[int], int]], data: dict[int, bytes]
) -> int:
    """Call a function of an image in unicorn, with Python functions at some addresses outside, and data at others."""
    machine = Uc(unicorn_const.UC_ARCH_ARM64, unicorn_const.UC_MODE_ARM)
    pages: set[int] = set()

    def put(address: int, content: bytes) -> None:
        for page in range(address & ~0xFFF, address + len(content), 0x1000):
            if page not in pages:
                machine.mem_map(page, 0x1000)
                pages.add(page)
        machine.mem_write(address, content)

    for segment in image.segments:
        put(segment.address, segment.content.ljust(segment.size, b"\0"))
    for address, content in data.items():
        put(address, content)
    for address in (*outside, RETURN_TO):
        put(address, (0xD65F03C0).to_bytes(4, "little"))
    put(STACK, bytes(0x2000))

    def answer(machine: Uc, address: int, size: int, more: object) -> None:
        if address in outside:
            machine.reg_write(X0, outside[address](machine.reg_read(X0)))

    machine.hook_add(unicorn_const.UC_HOOK_CODE, answer)
    machine.reg_write(SP, STACK + 0x1F00)
    machine.reg_write(LR, RETURN_TO)
    machine.reg_write(X0, argument)
    machine.emu_start(image.address_of(name), RETURN_TO, count=100_000)
    return int(machine.reg_read(X0))


@pytest.mark.parametrize("opt", range(4))
@pytest.mark.parametrize("model", ["static", "pic"])
@pytest.mark.parametrize("place", ["near", "within 4 GiB", "far"])
def test_code_of_llvm_runs(opt: int, model: str, place: str) -> None:
    """At each level of optimisation, and however far the function outside is, the result is the same.

    Data outside is reached through the GOT by position-independent code only, and else within 4 GiB.
    """
    content = llvm_object(IR, target=LLVM_TARGET, opt=opt, relocation_model=model)  # type: ignore[arg-type]
    function = {"near": BASE + 0x10_0000, "within 4 GiB": BASE + (1 << 31), "far": FAR}[place]
    datum = BASE + 0x20_0000 if model == "static" or place == "near" else FAR + 0x1_0000
    image = jitlink.link(content, base=BASE, define={"outside": function, "elsewhere": datum})
    outside = {function: lambda n: n + 1}
    data = {datum: (1000).to_bytes(8, "little")}
    table = [3, 1, 4, 1]
    for argument, factor in ((1, 1), (2, 2), (4, 1), (5, 2)):
        expected = (table[(argument + 1) % 4] + 4 + 1000) * factor
        assert run(image, "entry", argument, outside, data) == expected
    assert run(image, "entry", 3, outside, data) == 33
    assert run(image, "entry", 6, outside, data) == 0


@pytest.mark.parametrize("model", ["small", "large"])
def test_the_code_models_of_llvm_are_linked(model: str) -> None:
    """The large model holds addresses in groups of four moves, the small one in pairs."""
    ir = IR.replace(" global", " dso_local global")
    content = llvm_object(ir, target=LLVM_TARGET, relocation_model="static", code_model=model)  # type: ignore[arg-type]
    kinds = {edge.kind for edge in jitlink.read(content).edges}
    assert ("R_AARCH64_MOVW_UABS_G3" in kinds) == (model == "large")
    datum = FAR if model == "large" else BASE + 0x20_0000
    image = jitlink.link(content, base=BASE, define={"outside": FAR + 0x1000, "elsewhere": datum})
    data = {datum: (1000).to_bytes(8, "little")}
    assert run(image, "entry", 1, {FAR + 0x1000: lambda n: n + 1}, data) == 4 + 4 + 1000


FLAGS = [
    ("-O0",),
    ("-O2", "-fPIC"),
    ("-O2", "-ffunction-sections", "-fdata-sections"),
    ("-Os", "-g", "-mbranch-protection=standard"),
    ("-O1", "-mcmodel=tiny"),
]


# The tiny model reaches data within 1 MiB only.
NEAR_AND_DISTANT = [(flags, 0x8_0000) for flags in FLAGS] + [(flags, 0x4000_0000) for flags in FLAGS[:-1]]


@pytest.mark.parametrize(("flags", "distance"), NEAR_AND_DISTANT)
def test_objects_of_zig_are_linked(flags: tuple[str, ...], distance: int) -> None:
    """Every combination of flags gives objects that are linked, alone and with another one."""
    objects = [zig_cc(programs.source(name), *flags, target=TARGET) for name in ("linkage_a.c", "linkage_b.c")]
    for several in ([objects[0]], [objects[1]], objects):
        jitlink.link(*several, base=BASE, define=lambda name: BASE + distance + 16 * len(name))


# What is not linked


@pytest.mark.parametrize("target", ["aarch64_be-linux-gnu"])
def test_big_endian_objects_are_refused(target: str) -> None:
    """AAELF64 has big-endian objects; we have not, and say so by their byte order and machine."""
    content = assemble(".text\nstart: ret\n", target=target)
    for use in (jitlink.read, lambda content: jitlink.link(content, base=BASE)):
        with pytest.raises(UnsupportedInput, match="big-endian objects for EM_AARCH64 are not linked"):
            use(content)


def test_objects_of_other_machines_do_not_mix() -> None:
    """A link is for one machine."""
    objects = [assemble(".text\nret\n", target=target) for target in (TARGET, "x86_64-linux-gnu")]
    with pytest.raises(UnsupportedInput):
        jitlink.link(*objects, base=BASE)


# Indirect functions

IFUNC = """
    .text
    .globl chosen, direct, loaded
    .type chosen, %gnu_indirect_function
chosen: adrp x0, answer
        add x0, x0, :lo12:answer
        ret
answer: mov x0, #42
        ret
direct: b chosen
loaded: adrp x1, :got:chosen
        ldr x1, [x1, :got_lo12:chosen]
        br x1
    .data
    .globl table
table:  .quad chosen
"""


class AtBase:
    """An image at BASE, in a world without anything outside."""

    page_size = 4096

    def choose(self, needs: Needs) -> int:
        return BASE

    def address_of(self, name: str) -> int | None:
        return None

    own_address_of = hidden_address_of = address_of

    def is_function(self, address: int) -> bool:
        return False

    def datum(self, address: int) -> bytes | None:
        return None


def test_an_indirect_function_is_a_stub_through_what_its_resolver_returns() -> None:
    """Calls, loads from the GOT and pointers go to one stub; its entry holds the resolver until that has run."""
    graph = join([jitlink.read(assemble(IFUNC, target=TARGET))])
    linked = link(graph, AtBase(), AtBase(), Options())
    image = Image(linked)
    stub = image.address_of("chosen")
    assert int.from_bytes(image.read(image.address_of("table"), 8), "little") == stub
    (slot,) = linked.resolver_slots
    resolver = int.from_bytes(image.read(slot, 8), "little")
    answer = next(symbol.address for symbol in graph.symbols if symbol.name == "answer")
    assert answer == resolver + 12
    data = {slot: answer.to_bytes(8, "little")}
    for name in ("chosen", "direct", "loaded"):
        assert run(image, name, 0, {}, data) == 42


# Names and notes


@pytest.mark.parametrize("name", ["aarch64", "arm64", "AARCH64", "ARM64"])
def test_the_architecture_has_the_names_of_the_platforms(name: str) -> None:
    """Linux says aarch64, macOS arm64, and Windows ARM64."""
    assert architecture(name) is architecture("aarch64")


@pytest.mark.parametrize("name", ["aarch64", "arm64", "ARM64"])
def test_a_host_of_this_sort_links_for_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an AArch64 host, sessions link for AArch64."""
    monkeypatch.setattr("platform.machine", lambda: name)
    assert host_architecture() is architecture("aarch64")


def test_mapping_symbols_name_nothing() -> None:
    """AAELF64: $x and $d mark code and data; no address is called after them, and nothing exports them."""
    source = """
    .text
    .globl function
    nop
    function: ret
    .word 1
    cost$dollar: ret
    """
    image = jitlink.link(assemble(source, target=TARGET), base=BASE)
    read = {symbol.name for symbol in image.graph.symbols}
    assert "$x" in read
    assert any(name.startswith("$d") for name in read)
    assert named_places(image.graph, code=True).name == [b"function", b"cost$dollar"]
    assert set(image.symbols()) == {"function"}


def test_notes_on_branch_protection_are_kept() -> None:
    """.note.gnu.property says that the code is made for BTI and PAC; it is part of the image, also after dead strip."""
    content = zig_cc("int one(void) { return 1; }", "-mbranch-protection=standard", target=TARGET)
    for dead_strip in (False, True):
        image = jitlink.link(content, base=BASE, dead_strip=dead_strip)
        note = next(block for block in image.graph.blocks if block.section.name == ".note.gnu.property")
        assert note.live
        # GNU_PROPERTY_AARCH64_FEATURE_1_AND with BTI (1) and PAC (2): System V ABI for AArch64, program property.
        _, features, found = image.read(note.address, note.size).partition(bytes((0, 0, 0, 0xC0, 4, 0, 0, 0)))
        assert features
        assert found[0] & 3 == 3


# What C libraries have in their static part

FIRST = [0x1111, 0x2222, 0x3333, 0x4444]
MOVED: dict[str, tuple[str, list[object]]] = {
    "atexit": ("__cxa_atexit", [0x1111, 0, "handle"]),
    "at_quick_exit": ("__cxa_at_quick_exit", [0x1111, "handle"]),
    "pthread_atfork": ("__register_atfork", [0x1111, 0x2222, 0x3333, "handle"]),
    "stat": ("__xstat", [0, 0x1111, 0x2222]),
    "lstat64": ("__lxstat64", [0, 0x1111, 0x2222]),
    "fstat": ("__fxstat", [0, 0x1111, 0x2222]),
    "fstatat": ("__fxstatat", [0, 0x1111, 0x2222, 0x3333, 0x4444]),
    "mknod": ("__xmknod", [0, 0x1111, 0x2222, (0x3333,)]),
    "mknodat": ("__xmknodat", [0, 0x1111, 0x2222, 0x3333, (0x4444,)]),
}


@pytest.mark.parametrize("name", MOVED)
def test_support_routines_pass_their_arguments_on(name: str) -> None:
    """Each calls the function of libc that has one argument more, which is the handle or the version.

    A device, which is in parentheses here, is passed by pointer.
    """
    real, expected = MOVED[name]
    source = f".text\n.globl start, handle\nstart: b {name}\n.data\nhandle: .quad __dso_handle\n"
    image = jitlink.link(assemble(source, target=TARGET), base=BASE, define={real: FAR})
    machine = Uc(unicorn_const.UC_ARCH_ARM64, unicorn_const.UC_MODE_ARM)
    for segment in image.segments:
        machine.mem_map(segment.address, -(-segment.size // 4096) * 4096)
        machine.mem_write(segment.address, segment.content)
    for page in (FAR & ~0xFFF, STACK, RETURN_TO):
        machine.mem_map(page, 0x1000)
        machine.mem_write(page, (0xD65F03C0).to_bytes(4, "little"))
    seen: list[object] = []

    def look(machine: Uc, address: int, size: int, more: object) -> None:
        for register, wanted in enumerate(expected):
            value = machine.reg_read(X0 + register)
            if isinstance(wanted, tuple):
                value = (int.from_bytes(machine.mem_read(value, 8), "little"),)
            seen.append("handle" if wanted == "handle" and value == handle else value)

    handle = int.from_bytes(image.read(image.address_of("handle"), 8), "little")
    machine.hook_add(unicorn_const.UC_HOOK_CODE, look, begin=FAR, end=FAR)
    machine.reg_write(SP, STACK + 0xF00)
    machine.reg_write(LR, RETURN_TO)
    for register, value in enumerate(FIRST):
        machine.reg_write(X0 + register, value)
    machine.emu_start(image.address_of("start"), RETURN_TO, count=1000)
    assert seen == expected
    assert machine.reg_read(SP) == STACK + 0xF00
    assert machine.reg_read(arm64_const.UC_ARM64_REG_PC) == RETURN_TO
