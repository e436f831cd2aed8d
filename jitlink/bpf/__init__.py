"""BPF: link it, load it, verify it and run it, in this process and without a kernel.

    program = bpf.load("firewall.o", program="xdp_main")
    result = program.run(packet)                      result.retval, result.data, int(result)
    program.maps["counts"][key], program.globals["seen"]

    bpf.assemble(text), bpf.disassemble(code), bpf.verify(code)

Errors of loading are under jitlink.LinkError; a program that breaks a rule while it runs is stopped with
a BpfFault.
"""

from jitlink.bpf.assembler import assemble
from jitlink.bpf.assembly_text import AssemblyError
from jitlink.bpf.btf import Btf
from jitlink.bpf.btf import parse as parse_btf
from jitlink.bpf.disassembler import disassemble
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.helpers import Host, NativeHelper, Redirect, Route
from jitlink.bpf.linking import link
from jitlink.bpf.loader import BpfObject, MissingHelpers, load, load_object
from jitlink.bpf.machine import Machine
from jitlink.bpf.maps import BPF_ANY, BPF_EXIST, BPF_NOEXIST, Map, MapDefinition, MapError, MapFlag, MapType
from jitlink.bpf.observation import Coverage, Trace, together
from jitlink.bpf.program import Program, Result
from jitlink.bpf.verification import Report, VerificationFailed, VerificationFault
from jitlink.bpf.verifier import verify

__all__ = [
    "BPF_ANY",
    "BPF_EXIST",
    "BPF_NOEXIST",
    "AssemblyError",
    "BpfFault",
    "BpfObject",
    "Btf",
    "Coverage",
    "FaultKind",
    "Host",
    "Machine",
    "Map",
    "MapDefinition",
    "MapError",
    "MapFlag",
    "MapType",
    "MissingHelpers",
    "NativeHelper",
    "Program",
    "Redirect",
    "Report",
    "Result",
    "Route",
    "Trace",
    "VerificationFailed",
    "VerificationFault",
    "assemble",
    "disassemble",
    "link",
    "load",
    "load_object",
    "parse_btf",
    "together",
    "verify",
]
