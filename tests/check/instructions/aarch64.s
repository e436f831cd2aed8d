// Instructions of AArch64 that compilers seldom write: ends of ranges, and every form of address.
x:
        adr x0, .+1048572
        adr x3, .-1048576
        adrp x1, x
        add x0, x1, #4095
        add w0, w1, #3, lsl #12
        sub sp, sp, #16
        adds x0, x1, #7
        cmp x0, #9
        mov x0, sp
        movz x0, #65535, lsl #48
        movk w1, #5, lsl #16
        movn x2, #3
        orr x0, x1, #0xff
        and w0, w1, #1
        b .+8
        b .-134217728
        bl .+134217724
        b.ne .-8
        b.al .+1048572
        cbz x0, .+12
        cbnz w7, .-1048576
        tbz x0, #40, .+32764
        tbnz w0, #3, .-32768
        br x1
        blr x2
        ret
        ret x3
        ldr x0, .+1048572
        ldr w0, .-8
        ldr d0, .+16
        ldrsw x1, .+8
        prfm pldl1keep, .+8
        ldr x0, [x1, #32760]
        ldr w0, [x1, #16380]
        ldrh w0, [x1, #8190]
        ldrb w0, [x1, #4095]
        ldr q0, [x1, #65520]
        ldrsb x0, [x1, #3]
        str x0, [sp, #8]
        str b0, [x1, #5]
        ldur x0, [x1, #-256]
        stur w0, [x1, #255]
        ldr x0, [x1], #-8
        ldr x0, [x1, #255]!
        str q0, [x1, #16]!
        ldp x0, x1, [sp, #504]
        stp w0, w1, [sp, #-256]
        ldp x0, x1, [sp], #16
        stp x29, x30, [sp, #-16]!
        ldp q0, q1, [x2, #-1024]
        ldr x0, [x1, x2, lsl #3]
        ldr w0, [x1, w2, sxtw]
        prfm pldl1keep, [x1, #8]
        ldtr x0, [x1, #4]
        add x0, x1, x2, lsl #63
        sub w0, w1, w2, asr #3
        add x0, x1, w2, uxtw #2
        orr x0, x1, x2, ror #5
        mov x0, x1
        lsl x0, x1, #5
        lsr w0, w1, #31
        ubfx x0, x1, #3, #7
        sbfiz x0, x1, #3, #7
        bfi x0, x1, #2, #5
        svc #5
        brk #65535
        hint #34
