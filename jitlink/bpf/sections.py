"""What the names of sections say in a BPF object: program types, data, maps and the rest.

A program does not say what it is for; the name of its section does, `SEC("xdp")` in C. A name of the
table stands for itself; one with a plus may also be followed by a slash and what the program is to be
attached to, which we record and have no use for. Old objects write more behind other names too, and so
`tc/ingress` is read as `tc`. A name that nobody knows is that of a plain program, one that takes the
address and the length of its data.

Source: the table of Documentation/bpf/libbpf/program_types.rst; enum bpf_prog_type of
include/uapi/linux/bpf.h. The names of data sections are those of libbpf.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

TEXT = ".text"
"""Holds functions that programs call, and no programs, unless an object has nothing else."""
BTF_MAPS = ".maps"
LEGACY_MAPS = "maps"
LICENSE = "license"
VERSION = "version"
BTF = ".BTF"
BTF_EXT = ".BTF.ext"
KCONFIG = ".kconfig"
KSYMS = ".ksyms"

RODATA = ".rodata"
SPECIAL = frozenset({BTF_MAPS, LEGACY_MAPS, LICENSE, VERSION, BTF, BTF_EXT})
"""Sections with a meaning of their own, which hold no variables that a program can reach."""
UNUSED = (".eh_frame", ".note", ".llvm", ".struct_ops")
"""What names of sections begin with that a program cannot reach, or that need a kernel."""

PLAIN = "UNSPEC"


class ContextKind(StrEnum):
    """What a program is run on: a packet, as XDP or as a socket buffer, or flat memory."""

    XDP = "xdp"
    SKB = "skb"
    FLAT = "flat"


@dataclass(frozen=True)
class ProgramType:
    """The type of a program.

    Attributes: name (of enum bpf_prog_type, without its prefix); context; extra (what stands behind the
    known part of the section's name, such as what to attach to); known (whether the kernel has it).
    """

    name: str
    context: ContextKind
    extra: str = ""

    @property
    def known(self) -> bool:
        """Whether it is a type of the kernel, and not a plain program."""
        return self.name != PLAIN


# fmt: off
_NAMES: dict[str, str] = {
    "SOCKET_FILTER":           "socket",
    "SK_REUSEPORT":            "sk_reuseport sk_reuseport/migrate",
    "KPROBE":                  "kprobe+ kretprobe+ kprobe.multi+ kretprobe.multi+ kprobe.session+ uprobe+ uprobe.s+ "
                               "uretprobe+ uretprobe.s+ uprobe.multi+ uretprobe.multi+ uprobe.multi.s+ "
                               "uretprobe.multi.s+ uprobe.session+ uprobe.session.s+ ksyscall+ kretsyscall+ usdt+ "
                               "usdt.s+",
    "SCHED_CLS":               "tc tc/ingress tc/egress tcx/ingress tcx/egress netkit/primary netkit/peer classifier",
    "SCHED_ACT":               "action",
    "TRACEPOINT":              "tracepoint+ tp+",
    "RAW_TRACEPOINT":          "raw_tracepoint+ raw_tp+",
    "RAW_TRACEPOINT_WRITABLE": "raw_tracepoint.w+ raw_tp.w+",
    "TRACING":                 "tp_btf+ fentry+ fentry.s+ fexit+ fexit.s+ fmod_ret+ fmod_ret.s+ iter+ iter.s+",
    "EXT":                     "freplace+",
    "LSM":                     "lsm+ lsm.s+ lsm_cgroup+",
    "SYSCALL":                 "syscall",
    "XDP":                     "xdp xdp.frags xdp/devmap xdp.frags/devmap xdp/cpumap xdp.frags/cpumap",
    "PERF_EVENT":              "perf_event",
    "LWT_IN":                  "lwt_in",
    "LWT_OUT":                 "lwt_out",
    "LWT_XMIT":                "lwt_xmit",
    "LWT_SEG6LOCAL":           "lwt_seg6local",
    "SOCK_OPS":                "sockops",
    "SK_SKB":                  "sk_skb sk_skb/stream_parser sk_skb/stream_verdict sk_skb/verdict",
    "SK_MSG":                  "sk_msg",
    "LIRC_MODE2":              "lirc_mode2",
    "FLOW_DISSECTOR":          "flow_dissector",
    "CGROUP_SKB":              "cgroup/skb cgroup_skb/ingress cgroup_skb/egress",
    "CGROUP_SOCK":             "cgroup/sock cgroup/sock_create cgroup/sock_release cgroup/post_bind4 "
                               "cgroup/post_bind6",
    "CGROUP_SOCK_ADDR":        "cgroup/bind4 cgroup/bind6 cgroup/connect4 cgroup/connect6 cgroup/connect_unix "
                               "cgroup/sendmsg4 cgroup/sendmsg6 cgroup/sendmsg_unix cgroup/recvmsg4 cgroup/recvmsg6 "
                               "cgroup/recvmsg_unix cgroup/getpeername4 cgroup/getpeername6 cgroup/getpeername_unix "
                               "cgroup/getsockname4 cgroup/getsockname6 cgroup/getsockname_unix",
    "CGROUP_SYSCTL":           "cgroup/sysctl",
    "CGROUP_SOCKOPT":          "cgroup/getsockopt cgroup/setsockopt",
    "CGROUP_DEVICE":           "cgroup/dev",
    "STRUCT_OPS":              "struct_ops+ struct_ops.s+",
    "SK_LOOKUP":               "sk_lookup",
    "NETFILTER":               "netfilter",
}
# fmt: on

TYPE_OF_SECTION: dict[str, str] = {
    section.removesuffix("+"): type for type, sections in _NAMES.items() for section in sections.split()
}
"""The program type of each section name that libbpf knows."""

_PACKETS = {
    "XDP": ContextKind.XDP,
    "SOCKET_FILTER": ContextKind.SKB,
    "SCHED_CLS": ContextKind.SKB,
    "SCHED_ACT": ContextKind.SKB,
    "CGROUP_SKB": ContextKind.SKB,
    "LWT_IN": ContextKind.SKB,
    "LWT_OUT": ContextKind.SKB,
    "LWT_XMIT": ContextKind.SKB,
    "LWT_SEG6LOCAL": ContextKind.SKB,
    "SK_SKB": ContextKind.SKB,
    "FLOW_DISSECTOR": ContextKind.SKB,
}

PLAIN_PROGRAM = ProgramType(PLAIN, ContextKind.FLAT)


def program_type(section: str) -> ProgramType:
    """Tell the type of a program from the name of its section.

    A question mark in front, by which libbpf leaves a program out unless it is asked for, is no part of
    the name. The longest known part of the name decides.
    """
    section = section.removeprefix("?")
    known = section
    while known and known not in TYPE_OF_SECTION:
        known = known.rpartition("/")[0]
    if not known:
        return PLAIN_PROGRAM
    type = TYPE_OF_SECTION[known]
    return ProgramType(type, _PACKETS.get(type, ContextKind.FLAT), section[len(known) + 1 :])


def is_read_only(section: str) -> bool:
    """Whether a data section is one that programs only read: .rodata and what begins with .rodata and a dot."""
    return section == RODATA or section.startswith(f"{RODATA}.")


def holds_variables(section: str) -> bool:
    """Whether a section that is loaded and is no code holds variables of programs."""
    return section not in SPECIAL and not section.startswith(UNUSED)
