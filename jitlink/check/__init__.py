"""The check language with which LLVM tests its JIT linker, over our own links.

    # jitlink-check: decode_operand(call_site, 0) = target - next_pc(call_site)
    # jitlink-check: *{8}got_addr(test.o, external) = external

A rule is two expressions that must have the same value in the finished image. The grammar, the numbering
of operands and the reading order (strictly from left to right, without precedence) are those of LLVM's
RuntimeDyldChecker, so that its tests, and anybody's own, can be pointed at this linker.

    report = check("test.o", rules="test.s", base=0x1_0000_0000, define={"external": 0x1234})
    report.passed, report.failures
"""

from __future__ import annotations

from jitlink.check.report import Failure, Report
from jitlink.check.run import check

__all__ = ["Failure", "Report", "check"]
