"""The relocations of Mach-O and COFF: x86-64 and AArch64."""

from __future__ import annotations

from tests.check.cases import LOW, WORD32, WORD64, Case, G, M, data, past_signed, signed, well_within

X86_64_MACHO = [
    data("X86_64_RELOC_UNSIGNED", ".quad far", 8, relative=False, inside=(0, WORD64 - 1)),
    Case(
        "X86_64_RELOC_BRANCH",
        "callq far",
        ("decode_operand(site, 0) = far - next_pc(site)",),
        well_within(32, at=-5),
        past_signed(32, at=-5),
        stubbed=True,
    ),
    Case(
        "X86_64_RELOC_SIGNED",
        "leaq far(%rip), %rax",
        ("decode_operand(site, 4) = far - next_pc(site)",),
        signed(32, at=-7),
        past_signed(32, at=-7),
    ),
    Case(
        "X86_64_RELOC_SIGNED_1",
        "cmpb $1, far(%rip)",
        ("decode_operand(site, 3) = far - next_pc(site)",),
        signed(32, at=-7),
        past_signed(32, at=-7),
    ),
    Case(
        "X86_64_RELOC_SIGNED_2",
        "cmpw $300, far(%rip)",
        ("decode_operand(site, 3) = far - next_pc(site)",),
        signed(32, at=-9),
        past_signed(32, at=-9),
    ),
    Case(
        "X86_64_RELOC_SIGNED_4",
        "cmpl $70000, far(%rip)",
        ("decode_operand(site, 3) = far - next_pc(site)",),
        signed(32, at=-10),
        past_signed(32, at=-10),
    ),
    Case(
        "X86_64_RELOC_GOT_LOAD",
        "movq far@GOTPCREL(%rip), %rax",
        ("decode_operand(site, 4) = got_addr(case.o, far) - next_pc(site)", "*{8}got_addr(case.o, far) = far"),
        (1 << 46,),
        relative=False,
    ),
    Case(
        "X86_64_RELOC_GOT",
        "pushq far@GOTPCREL(%rip)",
        ("decode_operand(site, 3) = got_addr(case.o, far) - next_pc(site)", "*{8}got_addr(case.o, far) = far"),
        (1 << 46,),
        relative=False,
    ),
    data(
        "X86_64_RELOC_SUBTRACTOR",
        ".quad other - site\n.data\n.globl other\nother: .quad far",
        8,
        relative=True,
        inside=(0,),
        rule="(*{8}site) = other - site",
    ),
]

AARCH64_MACHO = [
    data("ARM64_RELOC_UNSIGNED", ".quad far", 8, relative=False, inside=(0, WORD64 - 1)),
    data("ARM64_RELOC_SUBTRACTOR", ".quad far - site", 8, relative=True, inside=(0, -G, 1 << 40)),
    Case(
        "ARM64_RELOC_BRANCH26",
        "bl far",
        ("decode_operand(site, 0) << 2 = far - site",),
        well_within(28),
        past_signed(28, 4),
        stubbed=True,
    ),
    Case(
        "ARM64_RELOC_PAGE21",
        "adrp x0, far@PAGE",
        ("decode_operand(site, 1) << 12 = (far[63:12] << 12) - (site[63:12] << 12)",),
        (-4 * G, 4 * G - 1),
        (-4 * G - 1, 4 * G),
    ),
    Case(
        "ARM64_RELOC_PAGEOFF12",
        "add x0, x0, far@PAGEOFF",
        ("decode_operand(site, 2) = far[11:0]",),
        LOW,
        relative=False,
    ),
    Case(
        "ARM64_RELOC_PAGEOFF12",
        "ldr x0, [x0, far@PAGEOFF]",
        ("decode_operand(site, 2) = far[11:3]",),
        (0, 0x1_2FF8),
        (4, 0x1_2FFC),
        relative=False,
    ),
    Case(
        "ARM64_RELOC_PAGEOFF12",
        "ldrb w0, [x0, far@PAGEOFF]",
        ("decode_operand(site, 2) = far[11:0]",),
        LOW,
        relative=False,
    ),
    Case(
        "ARM64_RELOC_PAGEOFF12",
        "ldr q0, [x0, far@PAGEOFF]",
        ("decode_operand(site, 2) = far[11:4]",),
        (0, 0x1_2FF0),
        (8,),
        relative=False,
    ),
    Case(
        "ARM64_RELOC_GOT_LOAD_PAGE21",
        "adrp x0, far@GOTPAGE",
        (
            "decode_operand(site, 1) << 12 = (got_addr(case.o, far)[63:12] << 12) - (site[63:12] << 12)",
            "*{8}got_addr(case.o, far) = far",
        ),
        (1 << 46,),
        relative=False,
    ),
    Case(
        "ARM64_RELOC_GOT_LOAD_PAGEOFF12",
        "ldr x0, [x0, far@GOTPAGEOFF]",
        ("decode_operand(site, 2) = got_addr(case.o, far)[11:3]", "*{8}got_addr(case.o, far) = far"),
        (1 << 46,),
        relative=False,
    ),
    data(
        "ARM64_RELOC_POINTER_TO_GOT",
        ".long far@GOT - .",
        4,
        relative=False,
        inside=(1 << 46,),
        rule="(*{4}site) = (got_addr(case.o, far) - site)[31:0]",
    ),
    Case(
        "ARM64_RELOC_PAGE21",
        "adrp x0, far@PAGE+0x4567",
        ("decode_operand(site, 1) << 12 = ((far + 0x4567)[63:12] << 12) - (site[63:12] << 12)",),
        (0, M),
    ),
]

X86_64_COFF = [
    data("IMAGE_REL_AMD64_ADDR64", ".quad far", 8, relative=False, inside=(0, WORD64 - 1)),
    data("IMAGE_REL_AMD64_ADDR32", ".long far", 4, relative=False, inside=(0, WORD32 - 1), outside=(WORD32,)),
    data(
        "IMAGE_REL_AMD64_ADDR32NB", ".long far@IMGREL", 4, relative=True, inside=(0, WORD32 - 1), outside=(WORD32, -1)
    ),
    *(
        Case(
            "IMAGE_REL_AMD64_REL32",
            {
                0: "leaq far(%rip), %rax",
                1: "cmpb $1, far(%rip)",
                2: "cmpw $300, far(%rip)",
                4: "cmpl $70000, far(%rip)",
            }[behind],
            (f"decode_operand(site, {3 if behind else 4}) = far - next_pc(site)",),
            signed(32, at=-size),
            past_signed(32, at=-size),
        )
        for behind, size in ((0, 7), (1, 7), (2, 9), (4, 10))
    ),
]

AARCH64_COFF = [
    data("IMAGE_REL_ARM64_ADDR64", ".xword far", 8, relative=False, inside=(0, WORD64 - 1)),
    data("IMAGE_REL_ARM64_ADDR32", ".word far", 4, relative=False, inside=(0, WORD32 - 1), outside=(WORD32,)),
    Case(
        "IMAGE_REL_ARM64_BRANCH26",
        "bl far",
        ("decode_operand(site, 0) << 2 = far - site",),
        well_within(28),
        past_signed(28, 4),
        stubbed=True,
    ),
    Case("IMAGE_REL_ARM64_BRANCH19", "b.ne far", ("decode_operand(site, 1) << 2 = far - site",), (0, M // 2)),
    Case("IMAGE_REL_ARM64_BRANCH14", "tbz x0, #40, far", ("decode_operand(site, 2) << 2 = far - site",), (0,)),
    Case(
        "IMAGE_REL_ARM64_PAGEBASE_REL21",
        "adrp x0, far",
        ("decode_operand(site, 1) << 12 = (far[63:12] << 12) - (site[63:12] << 12)",),
        (-4 * G, 4 * G - 1),
        (-4 * G - 1, 4 * G),
    ),
    Case(
        "IMAGE_REL_ARM64_REL21", "adr x0, far", ("decode_operand(site, 1) = far - site",), signed(21), past_signed(21)
    ),
    Case(
        "IMAGE_REL_ARM64_PAGEOFFSET_12A",
        "add x0, x0, :lo12:far",
        ("decode_operand(site, 2) = far[11:0]",),
        LOW,
        relative=False,
    ),
    Case(
        "IMAGE_REL_ARM64_PAGEOFFSET_12L",
        "ldr x0, [x0, :lo12:far]",
        ("decode_operand(site, 2) = far[11:3]",),
        (0, 0x1_2FF8),
        (4,),
        relative=False,
    ),
]
