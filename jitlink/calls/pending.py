"""Exceptions that wait for a typed call to return.

While C code runs, nothing can be raised into Python. An exception of a Python callable that C has called,
and one that linked code has thrown, are kept here under their thread, and the typed call raises them when
it comes back. A call looks whether anything waits at all, which costs a few nanoseconds, and only then
whether it is for its own thread.

C may call a Python callable at any time: if no typed call is under way in its thread, nobody would raise
the exception, and it goes to sys.unraisablehook.
"""

from __future__ import annotations

import sys
import threading
from types import FrameType, TracebackType

TYPED_CALL = "<typed call>"
"""File name of the code of all typed functions, by which their frames are known."""

waiting: dict[int, BaseException] = {}
"""By thread. Of several exceptions in one call the first stays; what C code does after it was not meant."""


def keep(error: BaseException, source: object) -> None:
    """Keep an exception until the typed call of this thread returns. source: the object that raised it."""
    thread = threading.get_ident()
    if thread in waiting or not _in_typed_call(sys._getframe(1)):
        sys.unraisablehook(_Unraisable(error, source))
    else:
        waiting[thread] = error


def raise_waiting() -> None:
    """Raise what waits for this thread, if anything does."""
    error = waiting.pop(threading.get_ident(), None)
    if error is not None:
        raise error


class _Unraisable:
    """The argument of sys.unraisablehook, which Python makes only for itself."""

    def __init__(self, error: BaseException, source: object) -> None:
        self.exc_type: type[BaseException] = type(error)
        self.exc_value: BaseException | None = error
        self.exc_traceback: TracebackType | None = error.__traceback__
        self.err_msg: str | None = "Exception ignored, which linked code could not pass on, in"
        self.object = source


def _in_typed_call(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == TYPED_CALL:
            return True
        frame = frame.f_back
    return False
