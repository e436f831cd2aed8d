# Instructions of x86-64 that compilers seldom write: ends of ranges, implied and tied operands, all forms of memory.
x:
        addl $-1, %ecx
        addq $-1, %rcx
        addl $0xffff0000, %ecx
        addw $-2, %cx
        addb $-2, %cl
        addl $-3, %eax
        addq $-300, %rax
        addl $5, (%rax,%rcx,4)
        addq %rax, 8(%rbx)
        addq 8(%rbx), %rax
        cmpb $1, x(%rip)
        cmpl $100, -4(%rsp)
        testl $0x80000000, %eax
        testb $1, (%rdi)
        movb $-1, %al
        movw $-1, %ax
        movl $-1, %eax
        movq $-1, %rax
        movabsq $0x1122334455667788, %rax
        movabsq 0x1122334455667788, %rax
        movl $7, x(%rip)
        movq %rax, x(%rip)
        movq x(%rip), %rax
        leaq x+4(%rip), %rax
        leaq (,%rcx,8), %rax
        pushq $1000
        pushq $-1
        popq %rax
        pushq x(%rip)
        callq *x(%rip)
        jmpq *8(,%rax,8)
        callq x
        jmp x
        jne x
        jrcxz .
        imulq $3, %rax, %rbx
        imull $-300, (%rax), %ebx
        imulq (%rax), %rbx
        idivq 8(%rax)
        negq %rax
        notl (%rax)
        incl %eax
        decq x(%rip)
        shlq $3, %rax
        shlq $200, %rax
        sarl %eax
        shrl %cl, (%rdi)
        shldq $3, %rax, %rbx
        shldq %cl, %rax, (%rbx)
        cmovneq %rax, %rbx
        cmovgl 8(%rax), %ebx
        sete %al
        setne 3(%rax)
        btq $40, %rax
        btsl $3, (%rax)
        bsrl %eax, %ebx
        xchgq %rax, 8(%rbx)
        xaddl %eax, (%rbx)
        cmpxchgq %rcx, (%rdx)
        bswapq %rax
        movzbl x(%rip), %eax
        movslq 4(%rdi), %rax
        cvtsi2sdq 8(%rax), %xmm0
        cvtsi2sdl %eax, %xmm0
        addsd x(%rip), %xmm1
        movsd %xmm0, 8(%rax)
        movaps 16(%rax), %xmm2
        mulsd %xmm1, %xmm2
        sqrtsd 8(%rax), %xmm1
        pshufd $0xe8, 8(%rax), %xmm1
        shufps $200, %xmm1, %xmm2
        cmpltsd 8(%rax), %xmm1
        pinsrw $3, (%rax), %xmm1
        pextrw $3, %xmm1, %eax
        ucomisd (%rax), %xmm1
        movl %fs:40, %eax
        movq %fs:x@tpoff(%rax), %rcx
        nopw 8(%rax,%rax)
        prefetcht0 8(%rax)
        ret
        retq $16
        enter $300, $2
        int $200
        int3
        inb $200, %al
        outl %eax, $9
        outb %al, %dx
        ud2
        cpuid
        endbr64
        syscall
        vaddsd 8(%rax), %xmm1, %xmm2
        vmovaps 8(%rax), %ymm1
        vpshufd $200, (%rax), %xmm1
        vblendps $3, 8(%rax), %ymm1, %ymm2
        sarxl %eax, (%rbx), %ecx
        addw $1000, %ax
        loop .
        fldl 8(%rax)
        fstpl (%rax)
