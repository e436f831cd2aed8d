"""The relocations of ELF: AArch64, RISC-V and x86-64."""

from __future__ import annotations

from tests.check.cases import LOW, WORD32, WORD64, Case, G, K, data, lowest, past_signed, signed, well_within

AARCH64_ELF = [
    data("R_AARCH64_ABS64", ".xword far", 8, relative=False, inside=(0, WORD64 - 1)),
    data(
        "R_AARCH64_ABS32",
        ".word far",
        4,
        relative=False,
        inside=(0, WORD32 - 1, WORD64 - 2 * G),
        outside=(WORD32, WORD64 - 2 * G - 1),
    ),
    data(
        "R_AARCH64_ABS16",
        ".hword far",
        2,
        relative=False,
        inside=(0, 65535, WORD64 - 32768),
        outside=(65536, WORD64 - 32769),
    ),
    data("R_AARCH64_PREL64", ".xword far - .", 8, relative=True, inside=(0, G, -G)),
    data(
        "R_AARCH64_PREL32", ".word far - .", 4, relative=True, inside=(-2 * G, WORD32 - 1), outside=(-2 * G - 1, WORD32)
    ),
    data("R_AARCH64_PREL16", ".hword far - .", 2, relative=True, inside=(-32 * K, 65535), outside=(-32 * K - 1, 65536)),
    *(
        Case(
            f"R_AARCH64_MOVW_UABS_G{group}",
            f"movz x0, #:abs_g{group}:far",
            (f"decode_operand(site, 1) = far[{16 * group + 15}:{16 * group}]",),
            (0, (1 << 16 * group + 16) - 1),
            () if group == 3 else (1 << 16 * group + 16,),
            relative=False,
        )
        for group in range(4)
    ),
    *(
        Case(
            f"R_AARCH64_MOVW_UABS_G{group}_NC",
            f"movk x0, #:abs_g{group}_nc:far",
            (f"decode_operand(site, 2) = far[{16 * group + 15}:{16 * group}]",),
            (0, WORD64 - 1),
            relative=False,
        )
        for group in range(3)
    ),
    *(
        Case(
            f"R_AARCH64_MOVW_SABS_G{group}",
            f"movz x0, #:abs_g{group}_s:far",
            (f"decode_operand(site, 1) = far[{16 * group + 15}:{16 * group}]",),
            (0, (1 << 16 * group + 16) - 1),
            (1 << 16 * group + 16,),
            relative=False,
        )
        for group in range(3)
    ),
    *(
        Case(
            f"R_AARCH64_MOVW_SABS_G{group}",
            f"movz x0, #:abs_g{group}_s:far",
            (f"decode_operand(site, 1) = (0 - 1 - far)[{16 * group + 15}:{16 * group}]", "(*{4}site)[30:30] = 0"),
            (WORD64 - 1, WORD64 - (1 << 16 * group + 16)),
            (WORD64 - (1 << 16 * group + 16) - 1,),
            relative=False,
        )
        for group in range(3)
    ),
    *(
        Case(
            f"R_AARCH64_MOVW_PREL_G{group}",
            f"movz x0, #:prel_g{group}:far",
            (f"decode_operand(site, 1) = (far - site)[{16 * group + 15}:{16 * group}]",),
            (0, (1 << 16 * group + 16) - 1),
            (1 << 16 * group + 16,),
        )
        for group in range(3)
    ),
    Case(
        "R_AARCH64_LD_PREL_LO19",
        "ldr x0, far",
        ("decode_operand(site, 1) << 2 = far - site",),
        signed(21, 4),
        (*past_signed(21, 4), 2),
    ),
    Case(
        "R_AARCH64_ADR_PREL_LO21", "adr x0, far", ("decode_operand(site, 1) = far - site",), signed(21), past_signed(21)
    ),
    Case(
        "R_AARCH64_ADR_PREL_PG_HI21",
        "adrp x0, far",
        ("decode_operand(site, 1) << 12 = (far[63:12] << 12) - (site[63:12] << 12)",),
        (-4 * G, 4 * G - 1),
        (-4 * G - 1, 4 * G),
    ),
    Case(
        "R_AARCH64_ADR_PREL_PG_HI21_NC",
        "adrp x0, :pg_hi21_nc:far",
        ("decode_operand(site, 1)[20:0] = (far[63:12] - site[63:12])[20:0]",),
        (-4 * G - 1, 4 * G),
    ),
    Case(
        "R_AARCH64_ADD_ABS_LO12_NC",
        "add x0, x1, :lo12:far",
        ("decode_operand(site, 2) = far[11:0]",),
        LOW,
        relative=False,
    ),
    *(
        Case(
            f"R_AARCH64_LDST{bits}_ABS_LO12_NC",
            f"ldr {register}, [x1, :lo12:far]",
            (f"decode_operand(site, 2) = far[11:{shift}]",),
            (0, 0xABC_D000 + 4096 - (1 << shift)),
            ((1 << shift) // 2,) if shift else (),
            relative=False,
        )
        for bits, register, shift in ((8, "b0", 0), (16, "h0", 1), (32, "w0", 2), (64, "x0", 3), (128, "q0", 4))
    ),
    Case(
        "R_AARCH64_TSTBR14",
        "tbz x0, #40, far",
        ("decode_operand(site, 2) << 2 = far - site",),
        signed(16, 4),
        placed=True,
    ),
    Case("R_AARCH64_CONDBR19", "b.ne far", ("decode_operand(site, 1) << 2 = far - site",), signed(21, 4), placed=True),
    Case(
        "R_AARCH64_JUMP26",
        "b far",
        ("decode_operand(site, 0) << 2 = far - site",),
        well_within(28),
        past_signed(28, 4),
        stubbed=True,
    ),
    Case(
        "R_AARCH64_CALL26",
        "bl far",
        ("decode_operand(site, 0) << 2 = far - site",),
        well_within(28),
        past_signed(28, 4),
        stubbed=True,
    ),
    Case(
        "R_AARCH64_ADR_GOT_PAGE",
        "adrp x0, :got:far",
        (
            "decode_operand(site, 1) << 12 = (got_addr(case.o, far)[63:12] << 12) - (site[63:12] << 12)",
            "*{8}got_addr(case.o, far) = far",
        ),
        (1 << 46,),
        relative=False,
    ),
    Case(
        "R_AARCH64_LD64_GOT_LO12_NC",
        "ldr x0, [x0, :got_lo12:far]",
        ("decode_operand(site, 2) = got_addr(case.o, far)[11:3]", "*{8}got_addr(case.o, far) = far"),
        (1 << 46,),
        relative=False,
    ),
    Case(
        "R_AARCH64_GOT_LD_PREL19",
        "ldr x0, :got:far",
        ("decode_operand(site, 1) << 2 = got_addr(case.o, far) - site", "*{8}got_addr(case.o, far) = far"),
        (1 << 46,),
        relative=False,
    ),
    data("R_AARCH64_PLT32", ".word far@PLT - .", 4, relative=True, inside=well_within(32)),
]

RISCV64_ELF = [
    data("R_RISCV_64", ".quad far", 8, relative=False, inside=(0, WORD64 - 1)),
    data(
        "R_RISCV_32",
        ".word far",
        4,
        relative=False,
        inside=(0, WORD32 - 1, WORD64 - 2 * G),
        outside=(WORD32, WORD64 - 2 * G - 1),
    ),
    data(
        "R_RISCV_32_PCREL",
        ".reloc ., R_RISCV_32_PCREL, far\n.word 0",
        4,
        relative=True,
        inside=signed(32),
        outside=past_signed(32),
    ),
    data("R_RISCV_PLT32", ".reloc ., R_RISCV_PLT32, far\n.word 0", 4, relative=True, inside=well_within(32)),
    *(
        Case(
            f"R_RISCV_{name}",
            instruction,
            (f"decode_operand(site, {operand}) = far - site",),
            inside,
            outside,
            placed=True,
        )
        for name, instruction, operand, inside, outside in (
            ("BRANCH", ".reloc ., R_RISCV_BRANCH, far\nbeq a0, a1, .", 2, signed(13, 4), past_signed(13, 4)),
            ("JAL", "jal ra, far", 1, signed(21, 4), past_signed(21, 4)),
            (
                "RVC_BRANCH",
                ".reloc ., R_RISCV_RVC_BRANCH, far\nc.beqz a0, .\nc.nop",
                1,
                signed(9, 4),
                past_signed(9, 4),
            ),
            ("RVC_JUMP", ".reloc ., R_RISCV_RVC_JUMP, far\nc.j .\nc.nop", 0, signed(12, 4), past_signed(12, 4)),
        )
    ),
    Case(
        "R_RISCV_CALL_PLT",
        "call far",
        ("((decode_operand(site, 1) << 12) + decode_operand(site + 4, 2))[31:0] = (far - site)[31:0]",),
        well_within(32),
        past_signed(32, 2),
        stubbed=True,
    ),
    Case(
        "R_RISCV_PCREL_HI20",
        "auipc a0, %pcrel_hi(far)",
        ("decode_operand(site, 1) = (far - site + 0x800)[31:12]",),
        (-2 * G - 2 * K, 2 * G - 2 * K - 1),
        (-2 * G - 2 * K - 1, 2 * G - 2 * K),
    ),
    Case(
        "R_RISCV_PCREL_LO12_I",
        "auipc a0, %pcrel_hi(far)\nld a0, %pcrel_lo(site)(a0)",
        ("decode_operand(site + 4, 2)[11:0] = (far - site)[11:0]",),
        (0x7FF, 0x800, -G),
    ),
    Case(
        "R_RISCV_PCREL_LO12_S",
        "auipc a0, %pcrel_hi(far)\nsd a1, %pcrel_lo(site)(a0)",
        ("decode_operand(site + 4, 2)[11:0] = (far - site)[11:0]",),
        (0x7FF, 0x800, -G),
    ),
    Case(
        "R_RISCV_GOT_HI20",
        "auipc a0, %got_pcrel_hi(far)",
        ("decode_operand(site, 1) = (got_addr(case.o, far) - site + 0x800)[31:12]", "*{8}got_addr(case.o, far) = far"),
        (1 << 46,),
        relative=False,
    ),
    Case(
        "R_RISCV_HI20",
        "lui a0, %hi(far)",
        ("decode_operand(site, 1) = (far + 0x800)[31:12]",),
        (0, 2 * G - 2 * K - 1, WORD64 - 2 * G - 2 * K),
        (2 * G - 2 * K, WORD64 - 2 * G - 2 * K - 1),
        relative=False,
    ),
    Case(
        "R_RISCV_LO12_I",
        "addi a0, a0, %lo(far)",
        ("decode_operand(site, 2)[11:0] = far[11:0]",),
        (0, 0x7FF, 0x800, 0x1234_5FFF),
        relative=False,
    ),
    Case(
        "R_RISCV_LO12_S",
        "sd a0, %lo(far)(a1)",
        ("decode_operand(site, 2)[11:0] = far[11:0]",),
        (0, 0x7FF, 0x800, 0x1234_5FFF),
        relative=False,
    ),
    *(
        data(
            f"R_RISCV_{operation}{8 * size}",
            f".reloc ., R_RISCV_{operation}{8 * size}, far\n.{directive} 0x5a",
            size,
            relative=False,
            inside=(0, 0xFF, 0xDEAD_BEEF_CAFE_F00D),
            rule=f"(*{{{size}}}site) = (0x5a{sign} far){lowest(size)}",
        )
        for operation, sign in (("ADD", "+"), ("SUB", "-"))
        for size, directive in ((1, "byte"), (2, "half"), (4, "word"), (8, "dword"))
    ),
    *(
        data(
            f"R_RISCV_SET{8 * size}",
            f".reloc ., R_RISCV_SET{8 * size}, far\n.{directive} 0x5a",
            size,
            relative=False,
            inside=(0, 0x7F, 0xDEAD_BEEF_CAFE_F00D),
        )
        for size, directive in ((1, "byte"), (2, "half"), (4, "word"))
    ),
    data(
        "R_RISCV_SET6",
        ".reloc ., R_RISCV_SET6, far\n.byte 0xc0",
        1,
        relative=False,
        inside=(0, 63, 64, WORD64 - 1),
        rule="(*{1}site) = far[5:0] | 0xc0",
    ),
    data(
        "R_RISCV_SUB6",
        ".reloc ., R_RISCV_SUB6, far\n.byte 0xc5",
        1,
        relative=False,
        inside=(0, 5, 6, 63),
        rule="(*{1}site) = (5- far)[5:0] | 0xc0",
    ),
    Case(
        "R_RISCV_SET_ULEB128",
        ".reloc ., R_RISCV_SET_ULEB128, far\n.reloc ., R_RISCV_SUB_ULEB128, site\n.byte 0x80, 0",
        ("((*{1}site)[6:0]) + ((*{1}(site + 1)) << 7) = far - site",),
        (0, 127, 128, 16383),
        (16384, -1),
    ),
]

X86_64_ELF = [
    data("R_X86_64_64", ".quad far", 8, relative=False, inside=(0, WORD64 - 1)),
    data("R_X86_64_32", ".long far", 4, relative=False, inside=(0, WORD32 - 1), outside=(WORD32,)),
    data("R_X86_64_16", ".word far", 2, relative=False, inside=(0, 65535, WORD64 - 32768), outside=(65536,)),
    data("R_X86_64_8", ".byte far", 1, relative=False, inside=(0, 255, WORD64 - 128), outside=(256,)),
    data("R_X86_64_PC64", ".quad far - .", 8, relative=True, inside=(0, 1 << 46)),
    data("R_X86_64_PC32", ".long far - .", 4, relative=True, inside=signed(32), outside=past_signed(32)),
    data("R_X86_64_PC16", ".word far - .", 2, relative=True, inside=signed(16), outside=past_signed(16)),
    data("R_X86_64_PC8", ".byte far - .", 1, relative=True, inside=signed(8), outside=past_signed(8)),
    Case(
        "R_X86_64_32S",
        "movq $far, %rax",
        ("decode_operand(site, 1) = far",),
        (0, 2 * G - 1, WORD64 - 2 * G),
        (2 * G, WORD64 - 2 * G - 1),
        relative=False,
    ),
    Case(
        "R_X86_64_PLT32",
        "callq far",
        ("decode_operand(site, 0) = far - next_pc(site)",),
        well_within(32, at=-5),
        past_signed(32, at=-5),
        stubbed=True,
    ),
    Case(
        "R_X86_64_GOTPCREL",
        "pushq far@GOTPCREL(%rip)",
        ("decode_operand(site, 3) = got_addr(case.o, far) - next_pc(site)", "*{8}got_addr(case.o, far) = far"),
        (1 << 46,),
        relative=False,
    ),
    Case(
        "R_X86_64_REX_GOTPCRELX",
        "movq far@GOTPCREL(%rip), %rax",
        ("decode_operand(site, 4) = got_addr(case.o, far) - next_pc(site)", "*{8}got_addr(case.o, far) = far"),
        (1 << 46,),
        relative=False,
    ),
]
