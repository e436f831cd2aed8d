"""Helpers: the functions of the kernel that BPF programs call."""

from jitlink.bpf.helpers.host import Host, Redirect, Route
from jitlink.bpf.helpers.names import NAMES, kernel_name, number_of
from jitlink.bpf.helpers.native import NativeHelper
from jitlink.bpf.helpers.table import HELPERS, HelperTable, KernelHelper

__all__ = [
    "HELPERS",
    "NAMES",
    "HelperTable",
    "Host",
    "KernelHelper",
    "NativeHelper",
    "Redirect",
    "Route",
    "kernel_name",
    "number_of",
]
