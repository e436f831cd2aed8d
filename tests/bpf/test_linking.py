"""BPF as an architecture: its relocation kinds, its link graph, and several objects linked into one.

What linking must come to is said by the compiler: one program, in one source file or in several.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jitlink
from jitlink import bpf
from jitlink.arches import architecture
from jitlink.bpf.functions import needed_functions
from jitlink.bpf.instructions import decode
from jitlink.errors import DuplicateDefinitions, LinkError, MalformedInput, OutOfRange, UnsupportedInput
from jitlink.graph import LinkGraph
from jitlink.inspect.listing import listing
from tests.bpf.sources import ORDERS, assembled, compiled

NAMES = {"little": "bpf", "big": "bpfeb"}
BASE = 0x2345_0000
UINT64 = st.integers(0, 2**64 - 1)
SINT32 = st.integers(-(2**31), 2**31 - 1)


def kind_of(name, order="little"):
    target = architecture(NAMES[order])
    return target.kinds[target.kind_number(name)]


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "R_BPF_NONE"),
        (1, "R_BPF_64_64"),
        (2, "R_BPF_64_ABS64"),
        (3, "R_BPF_64_ABS32"),
        (4, "R_BPF_64_NODYLD32"),
        (10, "R_BPF_64_32"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_kinds_have_the_numbers_of_the_kernels_document(number, name, order):
    """Each type of llvm_reloc.rst is a supported kind under its number, in both byte orders."""
    kinds = architecture(NAMES[order]).kinds
    kind = kinds[int(kinds.rows_of_numbers("elf", np.array([number]))[0])]
    assert (kind.name, kind.number, kind.reason) == (name, number, "")


@pytest.mark.parametrize("order", ORDERS)
@given(value=UINT64)
def test_a_wide_constant_takes_both_halves(order, value):
    """R_BPF_64_64 writes the low half into the first imm and the high half into the second, and nothing else."""
    image = np.full(16, 0x77, np.uint8)
    kind_of("R_BPF_64_64", order).field.store(image, np.array([0]), np.array([value], np.uint64))
    low, high = (int.from_bytes(image[at : at + 4].tobytes(), order) for at in (4, 12))
    assert low | high << 32 == value
    assert image[[0, 1, 2, 3, 8, 9, 10, 11]].tolist() == [0x77] * 8


@pytest.mark.parametrize("order", ORDERS)
@given(imm=SINT32)
def test_the_addend_of_a_wide_constant_is_its_first_imm(order, imm):
    """The addend in place is the first imm as a signed number, whatever the second one holds."""
    image = np.full(16, 0xFF, np.uint8)
    image[4:8] = np.frombuffer(imm.to_bytes(4, order, signed=True), np.uint8)
    assert kind_of("R_BPF_64_64", order).field.load(image, np.array([0])).tolist() == [imm]


@pytest.mark.parametrize("order", ORDERS)
@given(distance=st.integers(-(2**30), 2**30 - 1))
def test_a_call_counts_instructions_from_the_one_that_follows(order, distance):
    """A call at P of S gets (S - P) / 8 - 1, and reading it back gives the distance in bytes."""
    image = np.zeros(8, np.uint8)
    field = kind_of("R_BPF_64_32", order).field
    field.store(image, np.array([0]), np.array([8 * distance % 2**64], np.uint64))
    assert int.from_bytes(image[4:].tobytes(), order, signed=True) == distance - 1
    assert field.load(image, np.array([0])).tolist() == [8 * distance]


SMALL = """
int counter = 3;
static u64 table[4] = {1, 2, 3, 4};
NOINLINE u64 second(u64 x) { return x + table[x & 3] + counter; }
SEC("xdp") u64 first(u64 x) { counter++; return second(x) * 2; }
"""


@pytest.mark.parametrize("order", ORDERS)
def test_the_graph_of_an_object_is_like_any_other(order):
    """jitlink.read gives a link graph whose edges have the kinds and targets that the compiler wrote."""
    graph = jitlink.read(compiled(SMALL, order=order))
    assert graph.target.name == NAMES[order]
    edges = {(edge.block.section.name, edge.kind, edge.target.name) for edge in graph.edges}
    assert {("xdp", "R_BPF_64_32", "second"), ("xdp", "R_BPF_64_64", "counter")} <= edges
    text = "\n".join(listing(graph))
    assert "R_BPF_64_32" in text
    assert "xdp" in text


@pytest.mark.parametrize("order", ORDERS)
def test_an_image_holds_addresses_and_distances(order):
    """Linked at an address, wide constants hold addresses of variables, and a call the distance."""
    image = jitlink.link(compiled(SMALL, order=order), base=BASE)
    first, second, counter = map(image.address_of, ("first", "second", "counter"))
    assert int.from_bytes(image.read(counter, 4), order) == 3
    code = decode(image.read(first, image.graph.symbols["first"].size), order)
    assert counter in code.constant[code.opcode == 0x18].tolist()
    (call,) = (code.opcode == 0x85).nonzero()[0].tolist()
    assert first + 8 * (call + 1 + int(code.imm[call])) == second


def test_both_byte_orders_say_the_same():
    """The graphs of one source in both byte orders agree in symbols, edges and addends."""
    little, big = (jitlink.read(compiled(SMALL, order=order)) for order in ORDERS)
    for graphs in ((graph.symbols, graph.edges) for graph in (little, big)):
        assert len(graphs[0]) > 10
    said = [
        [(edge.block.section.name, edge.offset, edge.kind, edge.target.name, edge.addend) for edge in graph.edges]
        for graph in (little, big)
    ]
    assert said[0] == said[1]


def test_byte_orders_do_not_mix():
    """Objects of both byte orders cannot be linked into one, and the error says which one is odd."""
    with pytest.raises(UnsupportedInput, match=r"big-endian.*this link is for little-endian"):
        bpf.link(compiled(SMALL), compiled(SMALL, order="big"))


def test_an_object_for_another_machine_is_refused():
    """An x86-64 object is no BPF program."""
    from tests.toolchain import zig_cc

    with pytest.raises(UnsupportedInput, match="a BPF program is expected"):
        bpf.link(zig_cc("int x;"))


PARTS = {
    "declarations": """
        struct value { u64 seen, last; };
        struct numbers { __uint(type, 2); __uint(max_entries, 4); __type(key, u32); __type(value, struct value); };
        extern int weight;
        extern struct numbers numbers SEC(".maps");
        u64 mixed(u64 a, u64 b);
    """,
    "library": """
        static int calls;
        int weight = 7;
        struct numbers numbers SEC(".maps");
        static NOINLINE u64 helper(u64 x) { return x * weight + ++calls; }
        NOINLINE u64 mixed(u64 a, u64 b) { return helper(a) ^ helper(b) << 8; }
    """,
    "program": """
        static int calls = 100;
        static NOINLINE u64 helper(u64 x) { return x - ++calls; }
        SEC("xdp") int main_program(struct xdp_md *context)
        {
            u32 key = 2, length = context->data_end - context->data;
            struct value *value = map_lookup(&numbers, &key);
            if (!value)
                return 0;
            value->seen++;
            value->last = mixed(length, helper(length));
            weight++;
            return (int)value->last;
        }
    """,
}


def outcomes(*objects):
    """What the program of some objects returns and leaves in its map, over a few runs."""
    program = bpf.load(*objects)
    results = [int(program.run(bytes(length))) for length in (60, 61, 1500)]
    value = program.maps["numbers"][2]
    return results, value.seen, value.last, program.globals["weight"]


@pytest.mark.parametrize("order", ORDERS)
def test_two_objects_are_as_good_as_one(order):
    """Functions, variables and maps of another object work as if all had been in one source file."""
    declarations, library, program = (PARTS[name] for name in ("declarations", "library", "program"))
    renamed = program.replace("calls", "own_calls").replace("helper", "own_helper")
    whole = compiled(declarations + library + renamed, order=order)
    parts = [compiled(declarations + part, order=order) for part in (library, program)]
    assert outcomes(*parts) == outcomes(*reversed(parts)) == outcomes(whole)


def test_a_strong_definition_goes_before_a_weak_one():
    """A weak function gives way to a strong one of another object, and stands where there is none."""
    weak = compiled('WEAK NOINLINE u64 chosen(u64 x) { return x + 1; } SEC("xdp") u64 f(u64 x) { return chosen(x); }')
    strong = compiled("u64 chosen(u64 x) { return x + 1000; }")
    assert bpf.load_object(weak)["f"].call(5) == 6
    assert bpf.load_object(weak, strong)["f"].call(5) == 1005
    assert bpf.load_object(strong, weak)["f"].call(5) == 1005


def test_two_strong_definitions_are_an_error():
    """A name that two objects define strongly is reported with both of its places."""
    twice = [compiled("u64 same(u64 x) { return x; }"), compiled("u64 same(u64 x) { return -x; }")]
    with pytest.raises(DuplicateDefinitions) as caught:
        bpf.link(*twice)
    assert caught.value.names == ["same"]


def test_a_program_takes_along_only_what_it_needs():
    """Of the functions beside it a program holds those that it reaches, itself first."""
    linked = bpf.link(
        compiled("""
        NOINLINE u64 deep(u64 x) { return x * 3; }
        NOINLINE u64 used(u64 x) { return deep(x) + 1; }
        NOINLINE u64 unused(u64 x) { return x * x; }
        SEC("xdp") u64 one(u64 x) { return used(x); }
        SEC("tc") u64 other(u64 x) { return x; }
        """)
    )
    names = linked.functions.names
    needed = needed_functions(linked.graph, linked.functions, linked.programs["one"])
    assert [names[row] for row in needed] == ["one", "deep", "used"]
    assert len(needed_functions(linked.graph, linked.functions, linked.programs["other"])) == 1
    loaded = bpf.BpfObject(linked)
    assert loaded["one"].call(5) == 16


def test_the_address_of_a_function_is_a_pointer_that_helpers_can_call():
    """A function passed to bpf_loop is called back, with its source lines and its frame of stack."""
    program = bpf.load(
        compiled("""
        static NOINLINE int each(u32 index, u64 *sum) { *sum += index; return index == 6; }
        SEC("xdp") u64 sum(void *context) { u64 sum = 0; loop(100, each, &sum, 0); return sum; }
        """)
    )
    assert program.run(bytes(14)).r0 == 21
    assert "code_addr" in program.disassemble()


def test_a_local_call_of_the_assembler_survives_the_move():
    """A call that was finished inside its section leads to the same function when a program takes both along."""
    loaded = bpf.load_object(
        assembled("""
        .type padding,@function
        padding:
            r0 = 99
            exit
        .type callee,@function
        callee:
            r0 = r1
            r0 += 5
            exit
        .globl main
        .type main,@function
        main:
            r1 = 2
            call callee
            exit
        """)
    )
    assert loaded["main"].call() == 7
    assert len(loaded["main"].instructions) == 6


REFUSED = {
    "a call into the middle of a function": (
        """
        .type callee,@function
        callee:
            r0 = 1
        middle:
            r0 += 1
            exit
        .globl main
        .type main,@function
        main:
            call middle
            exit
        """,
        "does not lead to the start of a function",
    ),
    "a reference that is not in an instruction of its sort": (
        """
        .section xdp,"ax",@progbits
        .globl main
        .type main,@function
        main:
            .quad variable
            exit
        .data
        .globl variable
        variable: .long 1
        .size variable, 4
        """,
        "R_BPF_64_ABS64 does not fit the instruction",
    ),
    "the address of a function in data": (
        """
        .section xdp,"ax",@progbits
        .globl main
        .type main,@function
        main:
            r0 = 0
            exit
        .data
        .quad main
        """,
        "the address of a function in data",
    ),
    "code that is not whole instructions": (
        """
        .section xdp,"ax",@progbits
        .byte 1, 2, 3
        """,
        "not whole instructions",
    ),
    "an address into what a program cannot reach": (
        """
        .section xdp,"ax",@progbits
        .globl main
        .type main,@function
        main:
            r0 = text ll
            exit
        .section license,"aw",@progbits
        .globl text
        text: .asciz "GPL"
        """,
        "or what it points at",
    ),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_linked_rightly_is_refused(name, order):
    """The error names the rule, and the input and section that broke it."""
    source, message = REFUSED[name]
    with pytest.raises(LinkError, match=message) as caught:
        bpf.load(assembled(source, order))
    assert isinstance(caught.value, MalformedInput | UnsupportedInput)
    assert caught.value.input
    assert caught.value.section


def test_a_call_out_of_reach_is_an_error():
    """A call farther than its field is refused when it is fixed up, not cut."""
    graph = LinkGraph(architecture("bpf"), name="far")
    text = graph.add_section(".text", jitlink.Protection.READ | jitlink.Protection.EXECUTE)
    block = graph.add_block(text, bpf.assemble("call local +0\nexit"), alignment=8)
    graph.add_edge(block, 0, "R_BPF_64_32", graph.add_symbol("far"))
    with pytest.raises(OutOfRange, match="R_BPF_64_32 to far"):
        jitlink.link(graph, base=BASE, define={"far": BASE + (1 << 40)})
