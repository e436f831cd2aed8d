# Instructions of RISC-V that compilers seldom write: ends of ranges, and all compressed ones with immediates.
.option norelax
.option rvc
x:
        lui a0, 0xfffff
        auipc a1, 0x80000
        addi a0, a1, -2048
        addiw a0, a1, 2047
        slti a0, a1, -1
        andi a0, a1, -1
        jal ra, .+1048574
        jal x0, .-1048576
        jalr ra, -2048(a0)
        beq a0, a1, .+4094
        bltu a0, a1, .-4096
        lw a0, 2047(a1)
        ld a0, -2048(a1)
        lbu a0, 1(a1)
        sw a0, 2047(a1)
        sd a0, -2048(a1)
        fld fa0, 8(a1)
        fsw fa0, -4(a1)
        slli a0, a1, 63
        srai a0, a1, 40
        slliw a0, a1, 31
        srliw a0, a1, 3
        add a0, a1, a2
        mulw a0, a1, a2
        csrrw a0, 0x300, a1
        csrrsi a0, 0x300, 31
        fence rw, w
        ecall
        ebreak
        c.addi4spn a0, sp, 1020
        c.lw a0, 124(a1)
        c.ld a0, 248(a1)
        c.fld fa0, 248(a1)
        c.sw a0, 4(a1)
        c.sd a0, 8(a1)
        c.nop
        c.addi a0, -32
        c.addiw a0, 31
        c.li a0, -32
        c.addi16sp sp, -512
        c.addi16sp sp, 496
        c.lui a1, 0xfffe0
        c.lui a1, 31
        c.srli a0, 63
        c.srai a0, 1
        c.andi a0, -32
        c.sub a0, a1
        c.addw a0, a1
        c.j .+2046
        c.j .-2048
        c.beqz a0, .+254
        c.bnez a0, .-256
        c.slli a0, 63
        c.fldsp fa0, 504(sp)
        c.lwsp a0, 252(sp)
        c.ldsp a0, 504(sp)
        c.jr a0
        c.jalr a0
        c.mv a0, a1
        c.add a0, a1
        c.swsp a0, 252(sp)
        c.sdsp a0, 504(sp)
