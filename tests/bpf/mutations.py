"""Damaged BPF objects and code: sound ones with a few faults put in, and what must come of them.

The objects are those of the examples and some compiled here, in both byte orders, so that every part of
the loader has something to read: types, CO-RE, maps of both sorts, initial values, externs, data with
relocations, several functions. They are damaged as objects for the linker are (tests.mutations), and
also in words of their types and fields of their relocations. What comes out is linked, loaded with
everything outside given, and each of its programs is run for some instructions on a packet.

Code is damaged in single fields of its instructions, so that it stays plausible.

As a program this runs many more than the tests do, with an alarm against hangs and a limit on memory:

    python -m tests.bpf.mutations 25000 [seed]
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from jitlink import LinkError, bpf
from jitlink.formats import elf_layout as elf
from tests import mutations, toolchain
from tests.mutations import DAMAGES, INTERESTING, run_campaign

EXAMPLES = Path(__file__).parents[2] / "examples"
TARGETS = ("bpfel-freestanding", "bpfeb-freestanding")
BUDGET = 2000
PACKET = bytes(range(64))
SLOT = 8

EVERYTHING = """
#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define CORE __attribute__((preserve_access_index))
typedef unsigned int u32; typedef unsigned long long u64;
struct task { int pid; struct { u64 a; u32 b : 5; u32 c : 20; }; struct task *next; } CORE;
struct inner { __uint(type, 2); __uint(max_entries, 2); __type(key, u32); __type(value, u64); };
struct inner first SEC(".maps");
struct { __uint(type, 12); __uint(max_entries, 2); __type(key, u32); __array(values, struct inner); } outer
    SEC(".maps") = {.values = {&first}};
struct { __uint(type, 3); __uint(max_entries, 2); __type(key, u32); __array(values, int(void *)); } jumps SEC(".maps")
    = {.values = {0}};
struct { __uint(type, 1); __uint(max_entries, 8); __type(key, struct inner *); __type(value, u64); } hash SEC(".maps");
struct { __uint(type, 27); __uint(max_entries, 4096); } ring SEC(".maps");
static void *(*lookup)(void *, const void *) = (void *)1;
static long (*update)(void *, const void *, const void *, u64) = (void *)2;
static void (*tail_call)(void *, void *, u32) = (void *)12;
static long (*output)(void *, void *, u64, u64) = (void *)130;
static long (*loop)(u32, void *, void *, u64) = (void *)181;
extern int CONFIG_HZ SEC(".kconfig");
extern const int kernel_variable SEC(".ksyms");
extern u64 kernel_function(u64) SEC(".ksyms");
int counter = 3;
static u64 numbers[4] = {1, 2, 3, 4};
u64 *pointer = &numbers[2];
const volatile char text[] = "some text";
__attribute__((noinline)) static int each(u32 index, u64 *sum) { *sum += index; return index == 9; }
__attribute__((noinline)) u64 shared(u64 x) { return x * counter + *pointer + text[x & 7]; }
SEC("xdp") int first_program(u32 *context)
{
    u32 zero = 0;
    u64 sum = 0, *value;
    void *map = lookup(&outer, &zero);
    if (map && (value = lookup(map, &zero)))
        *value += shared(context[1] - context[0]);
    update(&hash, &sum, &sum, 0);
    loop(20, each, &sum, 0);
    output(&ring, &sum, 8, 0);
    tail_call(context, &jumps, 1);
    return (int)(sum + CONFIG_HZ + kernel_variable + kernel_function(3));
}
SEC("tc") int second_program(struct task *task) { return task->pid + task->c + (int)shared(task->a); }
char _license[] SEC("license") = "GPL";
"""
EVERYTHING = EVERYTHING.replace("#define CORE", "#define __array(name, value) typeof(value) *name[]\n#define CORE")

LEGACY = """
    .section xdp,"ax",@progbits
    .globl main
main:
    *(u32 *)(r10 - 4) = r1
    r2 = r10
    r2 += -4
    r1 = counts ll
    call 1
    if r0 == 0 goto end
    r1 = 1
    *(u64 *)(r0 + 0) = r1
end:
    call other
    exit
other:
    r0 = 1
    exit
    .section maps,"aw",@progbits
    .globl counts
counts:
    .long 1, 4, 8, 16, 0
    .section version,"aw",@progbits
    .long 0x60c00
"""


@cache
def seeds() -> dict[str, bytes]:
    """The sound objects, by name."""
    made = {path.name: path.read_bytes() for path in sorted(EXAMPLES.glob("bpf_*/*.o"))}
    for target in TARGETS:
        order = target.partition("-")[0]
        made[f"everything {order}"] = toolchain.zig_cc(EVERYTHING, "-O2", "-g", "-mcpu=v3", target=target)
        made[f"legacy {order}"] = toolchain.assemble(LEGACY, target=target)
    return made


def set_rel_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a relocation of a REL section, which BPF objects have."""
    mutations._set_record_field(buffer, (elf.SHT_REL,), elf.REL, choices)


def set_word_of_types(buffer: bytearray, choices: random.Random) -> None:
    """Set a word of .BTF or .BTF.ext to a small or an interesting number, in the object's byte order."""
    order = ">" if len(buffer) > 5 and buffer[5] == elf.DATA_BIG else "<"
    start = buffer.find(b"\x9f\xeb" if order == "<" else b"\xeb\x9f")
    if choices.random() < 0.3:
        start = buffer.find(b"\x9f\xeb" if order == "<" else b"\xeb\x9f", start + 2)
    if start >= 0:
        position = start + choices.randrange(0, 1600, 4)
        if position + 4 <= len(buffer):
            value = choices.choice((choices.randrange(80), choices.choice(INTERESTING) & 0xFFFF_FFFF))
            struct.pack_into(f"{order}I", buffer, position, value)


def set_slot(buffer: bytearray, choices: random.Random) -> None:
    """Set one field of something that lies where instructions do."""
    position = choices.randrange(max(len(buffer) // SLOT // 3, 1)) * SLOT
    _set_instruction_field(buffer, position, choices)


def _set_instruction_field(buffer: bytearray, position: int, choices: random.Random) -> None:
    if position + SLOT > len(buffer):
        return
    match choices.randrange(4):
        case 0:
            buffer[position] = choices.randrange(256)
        case 1:
            buffer[position + 1] = choices.randrange(256)
        case 2:
            struct.pack_into("<h", buffer, position + 2, choices.choice((choices.randrange(-40, 40), -512, 32767)))
        case _:
            struct.pack_into("<i", buffer, position + 4, choices.choice((choices.randrange(-40, 220), -1, 1 << 30)))


OBJECT_DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *DAMAGES,
    *(set_rel_field,) * 6,
    *(set_word_of_types,) * 8,
    *(set_slot,) * 4,
)


def damaged(content: bytes, choices: random.Random) -> bytes:
    """Damage a sound object in a few places."""
    buffer = bytearray(content)
    for _ in range(choices.randint(1, 3)):
        if buffer:
            choices.choice(OBJECT_DAMAGES)(buffer, choices)
    return bytes(buffer)


def damaged_code(content: bytes, choices: random.Random) -> bytes:
    """Take the code of a sound object and change some fields of its instructions."""
    code = bytearray(choices.choice(code_of(content)))
    for _ in range(choices.randint(1, 6)):
        _set_instruction_field(code, choices.randrange(len(code) // SLOT) * SLOT, choices)
    return bytes(code)


@cache
def code_of(content: bytes) -> list[bytes]:
    """The code of each program of an object, loaded and resolved."""
    loaded = load(content, verify=True)
    order = loaded.linked.byte_order
    instructions = [loaded[name].instructions for name in loaded]
    return [bpf.assemble(bpf.disassemble(each), byteorder=order) for each in instructions]


def load(content: bytes, *, verify: bool) -> bpf.BpfObject:
    """Load an object with everything given that it may ask for."""
    return bpf.load_object(
        content,
        kconfig={"CONFIG_HZ": 250},
        ksyms={"kernel_variable": bytes(8)},
        kfuncs={"kernel_function": lambda machine, x: x + 1},
        verify=verify,
    )


def run_or_refuse(content: bytes, choices: random.Random) -> str:
    """Load one object or code and run its programs; says how that ended. Any other error passes."""
    try:
        loaded = load(content, verify=choices.random() < 0.5)
    except LinkError as error:
        str(error)
        return type(error).__name__
    endings = set()
    try:
        for name in list(loaded)[:8]:
            endings.add(_run(loaded, name))
        list(loaded.globals.items())
    except LinkError as error:
        str(error)
        return type(error).__name__
    finally:
        loaded.close()
    return f"loaded, and {' or '.join(sorted(endings)) or 'it has no program'}"


def _run(loaded: bpf.BpfObject, name: str) -> str:
    program = loaded[name]
    str(program.verify())
    program.disassemble()
    try:
        for _ in range(2):
            program.run(PACKET, budget=BUDGET)
    except bpf.BpfFault as fault:
        str(fault)
        return "stopped"
    return "ran"


def main(count: int, seed: int) -> int:
    """Run count damaged objects and as many pieces of code. Prints how they ended; 1 if any ended badly."""

    def run_one(number: int, content: bytes, choices: random.Random) -> str:
        damage = damaged if number % 2 else damaged_code
        return run_or_refuse(damage(content, choices), choices)

    return run_campaign(2 * count, seed, seeds(), run_one)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
