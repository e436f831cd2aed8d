"""C for BPF, as tests write it: the macros of bpf_helpers.h, and objects compiled from it."""

from __future__ import annotations

from tests import toolchain

TARGETS = {"little": "bpfel-freestanding", "big": "bpfeb-freestanding"}
ORDERS = tuple(TARGETS)

MACROS = """
#define SEC(name) __attribute__((section(name), used))
#define NOINLINE __attribute__((noinline))
#define WEAK __attribute__((weak))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]
#define __kconfig __attribute__((section(".kconfig")))
#define __ksym __attribute__((section(".ksyms")))
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef long long s64;
struct xdp_md { u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex; };
static void *(*const map_lookup)(void *, const void *) = (void *)1;
static long (*const map_update)(void *, const void *, const void *, u64) = (void *)2;
static u64 (*const ktime_get_ns)(void) = (void *)5;
static long (*const trace_printk)(const char *, u32, ...) = (void *)6;
static long (*const tail_call)(void *, void *, u32) = (void *)12;
static long (*const xdp_adjust_head)(void *, int) = (void *)44;
static long (*const loop)(u32, void *, void *, u64) = (void *)181;
"""


def compiled(source: str, *flags: str, order: str = "little") -> bytes:
    """Compile C behind MACROS, with types (BTF)."""
    return toolchain.zig_cc(MACROS + source, "-O2", "-g", "-mcpu=v3", *flags, target=TARGETS[order])


def assembled(source: str, order: str = "little") -> bytes:
    """Assemble a .s file in LLVM's syntax to an object."""
    return toolchain.assemble(source, target=TARGETS[order])
