/* Switch tables and computed gotos: tables of code addresses, absolute or as distances. */

long check_dense_switch(long n) {
    long result = 1;
    for (int i = 0; i < 24; i++) {
        switch ((n + i) & 15) {
        case 0: result += 3; break;
        case 1: result *= 5; break;
        case 2: result ^= 0x55; break;
        case 3: result -= 7; break;
        case 4: result |= 0x100; break;
        case 5: result += result << 2; break;
        case 6: result = ~result; break;
        case 7: result &= 0xfffffff; break;
        case 8: result += i; break;
        case 9: result *= i + 1; break;
        case 11: result -= i; break;
        case 12: result ^= result >> 5; break;
        case 13: result += 99; break;
        default: result = result * 3 + 1; break;
        }
        result &= 0xffffffff;
    }
    return result;
}

static const char *name_of(long number) {
    switch (number) {
    case 0: return "zero";
    case 1: return "one";
    case 2: return "two";
    case 3: return "three";
    case 4: return "four";
    case 5: return "five";
    case 6: return "six";
    default: return "many";
    }
}

long check_switch_over_strings(long n) {
    unsigned long sum = 0;
    for (long i = 0; i < 9; i++)
        for (const char *c = name_of((n + i) & 7); *c; c++)
            sum = sum * 31 + (unsigned char)*c;
    return (long)sum;
}

/* A byte-code machine with a table of labels. */
long check_computed_goto(long n) {
    static const void *const labels[] = {&&push, &&add, &&twice, &&swap, &&done};
    static const unsigned char program[] = {0, 0, 1, 2, 0, 3, 1, 2, 2, 4};
    long stack[8] = {0}, top = 0;
    const unsigned char *next = program;
    goto *labels[*next++];
push:
    stack[top] = n + top;
    top++;
    goto *labels[*next++];
add:
    top--;
    stack[top - 1] += stack[top];
    goto *labels[*next++];
twice:
    stack[top - 1] *= 2;
    goto *labels[*next++];
swap: {
    long held = stack[top - 1];
    stack[top - 1] = stack[top - 2];
    stack[top - 2] = held;
    goto *labels[*next++];
}
done:
    return stack[0];
}
