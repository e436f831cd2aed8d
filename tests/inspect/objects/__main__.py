"""Compile the objects and write the golden texts anew; look at the difference before keeping it."""

from __future__ import annotations

from tests.inspect.objects import FLAGS, HERE, TARGETS
from tests.inspect.views import VIEWS, view
from tests.toolchain import zig_cc

source = (HERE / "sample.c").read_text()
for name, target in TARGETS.items():
    (HERE / f"{name}.o").write_bytes(zig_cc(source, *FLAGS, target=target))
    for suffix in VIEWS:
        (HERE / f"{name}.{suffix}").write_text(view(name, suffix))
