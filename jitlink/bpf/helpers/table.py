"""The helpers that we have, one row each, and the table that a program's machine calls them through.

A helper is a function of the host, the machine and r1 to r5. A program's table binds the functions to
its host; each entry can be replaced, and others added, by number or by name. Functions of the kernel
that are no helpers (kfuncs) come through the same door, by name.

Source: numbers and prototypes from include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from jitlink.bpf.helpers import (
    checksums,
    elements,
    environment,
    flow,
    formatting,
    memory,
    packets,
    rings,
    routing,
    strings,
)
from jitlink.bpf.helpers.host import Host
from jitlink.bpf.helpers.names import NAMES, NUMBERS, kernel_name
from jitlink.bpf.helpers.native import NativeHelper
from jitlink.bpf.machine import Helper, Machine
from jitlink.errors import UnsupportedInput, UsageError

Function = TypeVar("Function", bound=Callable[..., Any])

ARGUMENTS = 5
NUMBERS_BELOW = 1 << 31


class KernelHelper(NamedTuple):
    """A helper as the kernel declares it (number, result, parameters), and what stands for it here."""

    number: int
    result: str
    parameters: str
    function: Callable[..., int]

    @property
    def name(self) -> str:
        """The name with its prefix bpf_."""
        return kernel_name(self.number)

    @property
    def prototype(self) -> str:
        """The C prototype."""
        return f"{self.result} {self.name}({self.parameters})".replace("* ", "*")


# fmt: off
HELPERS: tuple[KernelHelper, ...] = (
    KernelHelper(1,   "void *", "struct bpf_map *map, const void *key", elements.map_lookup_elem),
    KernelHelper(2,   "long",  "struct bpf_map *map, const void *key, const void *value, u64 flags",
                 elements.map_update_elem),
    KernelHelper(3,   "long",  "struct bpf_map *map, const void *key", elements.map_delete_elem),
    KernelHelper(4,   "long",  "void *dst, u32 size, const void *unsafe_ptr", memory.probe_read),
    KernelHelper(5,   "u64",   "void", environment.ktime_get_ns),
    KernelHelper(6,   "long",  "const char *fmt, u32 fmt_size, ...", formatting.trace_printk),
    KernelHelper(7,   "u32",   "void", environment.get_prandom_u32),
    KernelHelper(8,   "u32",   "void", environment.get_smp_processor_id),
    KernelHelper(9,   "long",  "struct sk_buff *skb, u32 offset, const void *from, u32 len, u64 flags",
                 packets.skb_store_bytes),
    KernelHelper(10,  "long",  "struct sk_buff *skb, u32 offset, u64 from, u64 to, u64 size",
                 checksums.l3_csum_replace),
    KernelHelper(11,  "long",  "struct sk_buff *skb, u32 offset, u64 from, u64 to, u64 flags",
                 checksums.l4_csum_replace),
    KernelHelper(12,  "long",  "void *ctx, struct bpf_map *prog_array_map, u32 index", flow.tail_call),
    KernelHelper(13,  "long",  "struct sk_buff *skb, u32 ifindex, u64 flags", routing.clone_redirect),
    KernelHelper(14,  "u64",   "void", environment.get_current_pid_tgid),
    KernelHelper(15,  "u64",   "void", environment.get_current_uid_gid),
    KernelHelper(16,  "long",  "void *buf, u32 size_of_buf", environment.get_current_comm),
    KernelHelper(23,  "long",  "u32 ifindex, u64 flags", routing.redirect),
    KernelHelper(25,  "long",  "void *ctx, struct bpf_map *map, u64 flags, void *data, u64 size",
                 rings.perf_event_output),
    KernelHelper(26,  "long",  "const void *skb, u32 offset, void *to, u32 len", packets.skb_load_bytes),
    KernelHelper(28,  "s64",   "__be32 *from, u32 from_size, __be32 *to, u32 to_size, __wsum seed",
                 checksums.csum_diff),
    KernelHelper(38,  "long",  "struct sk_buff *skb, u32 len, u64 flags", packets.skb_change_tail),
    KernelHelper(39,  "long",  "struct sk_buff *skb, u32 len", packets.skb_pull_data),
    KernelHelper(40,  "s64",   "struct sk_buff *skb, __wsum csum", checksums.csum_update),
    KernelHelper(42,  "long",  "void", environment.get_numa_node_id),
    KernelHelper(44,  "long",  "struct xdp_buff *xdp_md, int delta", packets.xdp_adjust_head),
    KernelHelper(45,  "long",  "void *dst, u32 size, const void *unsafe_ptr", memory.probe_read_str),
    KernelHelper(51,  "long",  "struct bpf_map *map, u64 key, u64 flags", routing.redirect_map),
    KernelHelper(54,  "long",  "struct xdp_buff *xdp_md, int delta", packets.xdp_adjust_meta),
    KernelHelper(65,  "long",  "struct xdp_buff *xdp_md, int delta", packets.xdp_adjust_tail),
    KernelHelper(68,  "long",  "const void *skb, u32 offset, void *to, u32 len, u32 start_header",
                 packets.skb_load_bytes_relative),
    KernelHelper(69,  "long",  "void *ctx, struct bpf_fib_lookup *params, int plen, u32 flags", routing.fib_lookup),
    KernelHelper(87,  "long",  "struct bpf_map *map, const void *value, u64 flags", elements.map_push_elem),
    KernelHelper(88,  "long",  "struct bpf_map *map, void *value", elements.map_pop_elem),
    KernelHelper(89,  "long",  "struct bpf_map *map, void *value", elements.map_peek_elem),
    KernelHelper(93,  "long",  "struct bpf_spin_lock *lock", flow.spin_lock),
    KernelHelper(94,  "long",  "struct bpf_spin_lock *lock", flow.spin_unlock),
    KernelHelper(105, "long",  "const char *buf, size_t buf_len, u64 flags, long *res", strings.strtol),
    KernelHelper(106, "long",  "const char *buf, size_t buf_len, u64 flags, unsigned long *res",
                 strings.strtoul),
    KernelHelper(112, "long",  "void *dst, u32 size, const void *unsafe_ptr", memory.probe_read),
    KernelHelper(113, "long",  "void *dst, u32 size, const void *unsafe_ptr", memory.probe_read),
    KernelHelper(114, "long",  "void *dst, u32 size, const void *unsafe_ptr", memory.probe_read_str),
    KernelHelper(115, "long",  "void *dst, u32 size, const void *unsafe_ptr", memory.probe_read_str),
    KernelHelper(118, "u64",   "void", environment.jiffies64),
    KernelHelper(125, "u64",   "void", environment.ktime_get_boot_ns),
    KernelHelper(130, "long",  "void *ringbuf, void *data, u64 size, u64 flags", rings.ringbuf_output),
    KernelHelper(131, "void *", "void *ringbuf, u64 size, u64 flags", rings.ringbuf_reserve),
    KernelHelper(132, "void",  "void *data, u64 flags", rings.ringbuf_submit),
    KernelHelper(133, "void",  "void *data, u64 flags", rings.ringbuf_discard),
    KernelHelper(134, "u64",   "void *ringbuf, u64 flags", rings.ringbuf_query),
    KernelHelper(148, "long",  "void *dst, u32 size, const void *user_ptr", memory.probe_read),
    KernelHelper(160, "u64",   "void", environment.ktime_get_ns),
    KernelHelper(164, "long",  "struct bpf_map *map, void *callback_fn, void *callback_ctx, u64 flags",
                 elements.for_each_map_elem),
    KernelHelper(165, "long",  "char *str, u32 str_size, const char *fmt, u64 *data, u32 data_len",
                 formatting.snprintf),
    KernelHelper(177, "long",  "const char *fmt, u32 fmt_size, const void *data, u32 data_len",
                 formatting.trace_vprintk),
    KernelHelper(181, "long",  "u32 nr_loops, void *callback_fn, void *callback_ctx, u64 flags", flow.loop),
    KernelHelper(182, "long",  "const char *s1, u32 s1_sz, const char *s2", strings.strncmp),
    KernelHelper(188, "u64",   "struct xdp_buff *xdp_md", packets.xdp_get_buff_len),
    KernelHelper(189, "long",  "struct xdp_buff *xdp_md, u32 offset, void *buf, u32 len", packets.xdp_load_bytes),
    KernelHelper(190, "long",  "struct xdp_buff *xdp_md, u32 offset, void *buf, u32 len", packets.xdp_store_bytes),
    KernelHelper(195, "void *", "struct bpf_map *map, const void *key, u32 cpu", elements.map_lookup_percpu_elem),
    KernelHelper(208, "u64",   "void", environment.ktime_get_tai_ns),
)
# fmt: on


class HelperTable:
    """The helpers and kfuncs of one program.

    Attributes: host; by_number (what the machine looks helpers up in); kfuncs (by name).
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.by_number: dict[int, Helper] = {each.number: partial(each.function, host) for each in HELPERS}
        self.kfuncs: dict[str, Helper] = {}
        self._own_names: dict[str, int] = {}

    def helper(self, key: int | str) -> Callable[[Function], Function]:
        """Replace or add a helper by its number or name: `@table.helper(200)`.

        The function is called with the machine and as many of r1 to r5 as it has parameters; what it
        returns is r0, and None is 0. A NativeHelper is called as C. Raises UsageError for a name that is not the
        kernel's.
        """
        number = self.number_of(key)

        def define(function: Function) -> Function:
            self.by_number[number] = function if isinstance(function, NativeHelper) else adapted(function)
            if number >= len(NAMES):
                self._own_names[function.__name__] = number
            return function

        return define

    def kfunc(self, name: str) -> Callable[[Function], Function]:
        """Replace or add a kfunc by name; the function is as for helper."""

        def define(function: Function) -> Function:
            self.kfuncs[name] = adapted(function)
            return function

        return define

    def number_of(self, key: int | str) -> int:
        """Find the number of a helper: the kernel's by name with or without bpf_, an own one by its name."""
        if isinstance(key, int):
            if not 0 < key < NUMBERS_BELOW:
                raise UsageError(f"{key} is no number of a helper")
            return key
        number = self._own_names.get(key) or NUMBERS.get(key.removeprefix("bpf_"))
        if not number:
            raise UsageError(f"no helper is called {key!r}; give a helper of your own a number")
        return number

    def name_of(self, number: int) -> str:
        """Give the name of a helper, for people."""
        own = [name for name, each in self._own_names.items() if each == number]
        return own[0] if own else kernel_name(number)

    def missing(self, numbers: Iterable[int]) -> list[str]:
        """Name the helpers among numbers that there are not."""
        return [self.name_of(number) for number in dict.fromkeys(numbers) if number not in self.by_number]

    def require(self, numbers: Iterable[int]) -> None:
        """Raise UnsupportedInput, naming them all, when a program calls helpers that there are not."""
        missing = self.missing(numbers)
        if missing:
            raise UnsupportedInput(
                f"the program calls {', '.join(missing)}, which we do not have",
                hint="Give the program one with @program.helper(number or name).",
            )


def adapted(function: Callable[..., Any]) -> Helper:
    """Let a function that takes the machine and only some registers be called with all of them."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        taken = ARGUMENTS
    else:
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        taken = sum(kind in positional for kind in kinds) - 1
    if not 0 <= taken <= ARGUMENTS:
        raise UsageError(f"a helper takes the machine and at most {ARGUMENTS} registers, {function!r} does not")

    def helper(machine: Machine, *registers: int) -> int:
        result = function(machine, *registers[:taken])
        return 0 if result is None else int(result)

    return helper
