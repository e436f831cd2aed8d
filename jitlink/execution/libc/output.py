"""<stdio.h>: writing. Files other than stdout and stderr are not there."""

from __future__ import annotations

from jitlink.execution.conventions import VariableArguments
from jitlink.execution.libc.formatting import Source, formatted
from jitlink.execution.libc.memory import aligned
from jitlink.execution.libc.provided import LibraryCall, provides

POINTER_SIZE = 8
LONGEST_STRING = 1 << 24


def _format(call: LibraryCall, text: int, arguments: VariableArguments) -> bytes:
    def string(address: int, limit: int | None) -> bytes:
        return call.memory.read_string(address, LONGEST_STRING if limit is None else limit)

    source = Source(arguments, call.library.home.long_size, string, call.memory.write)
    return formatted(call.string(text), source)


def _show(call: LibraryCall, text: bytes, stream: int = 0) -> int:
    call.library.write(stream, text)
    return len(text)


def _keep(call: LibraryCall, to: int, size: int, text: bytes) -> int:
    """Store what fits into size bytes with its NUL; returns the length of all."""
    if size:
        call.memory.write(to, text[: size - 1] + b"\0")
    return len(text)


@provides("printf", "__mingw_printf", types="i p.")
def printf(call: LibraryCall, text: int) -> int:
    """To stdout."""
    return _show(call, _format(call, text, call.incoming))


@provides("vprintf", "__mingw_vprintf", types="i pp")
def vprintf(call: LibraryCall, text: int, arguments: int) -> int:
    """To stdout, from a va_list."""
    return _show(call, _format(call, text, call.incoming.va_list(arguments)))


@provides("fprintf", "__mingw_fprintf", types="i pp.")
def fprintf(call: LibraryCall, stream: int, text: int) -> int:
    """To a stream."""
    return _show(call, _format(call, text, call.incoming), stream)


@provides("vfprintf", "__mingw_vfprintf", types="i ppp")
def vfprintf(call: LibraryCall, stream: int, text: int, arguments: int) -> int:
    """To a stream, from a va_list."""
    return _show(call, _format(call, text, call.incoming.va_list(arguments)), stream)


@provides("sprintf", "__mingw_sprintf", types="i pp.")
def sprintf(call: LibraryCall, to: int, text: int) -> int:
    """To a string."""
    written = _format(call, text, call.incoming)
    return _keep(call, to, len(written) + 1, written)


@provides("vsprintf", "__mingw_vsprintf", types="i ppp")
def vsprintf(call: LibraryCall, to: int, text: int, arguments: int) -> int:
    """To a string, from a va_list."""
    written = _format(call, text, call.incoming.va_list(arguments))
    return _keep(call, to, len(written) + 1, written)


@provides("snprintf", "__mingw_snprintf", types="i pzp.")
def snprintf(call: LibraryCall, to: int, size: int, text: int) -> int:
    """To a string of at most size bytes."""
    return _keep(call, to, size, _format(call, text, call.incoming))


@provides("vsnprintf", "__mingw_vsnprintf", types="i pzpp")
def vsnprintf(call: LibraryCall, to: int, size: int, text: int, arguments: int) -> int:
    """To a string of at most size bytes, from a va_list."""
    return _keep(call, to, size, _format(call, text, call.incoming.va_list(arguments)))


@provides("__printf_chk", types="i ip.")
def printf_chk(call: LibraryCall, flag: int, text: int) -> int:
    """To stdout, as glibc's fortified headers call it."""
    return printf(call, text)


@provides("__fprintf_chk", types="i pip.")
def fprintf_chk(call: LibraryCall, stream: int, flag: int, text: int) -> int:
    """To a stream, fortified."""
    return fprintf(call, stream, text)


@provides("__sprintf_chk", types="i pizp.")
def sprintf_chk(call: LibraryCall, to: int, flag: int, room: int, text: int) -> int:
    """To a string, fortified."""
    return sprintf(call, to, text)


@provides("__snprintf_chk", types="i pzizp.")
def snprintf_chk(call: LibraryCall, to: int, size: int, flag: int, room: int, text: int) -> int:
    """To a string of at most size bytes, fortified."""
    return snprintf(call, to, size, text)


@provides("__vsnprintf_chk", types="i pzizpp")
def vsnprintf_chk(call: LibraryCall, to: int, size: int, flag: int, room: int, text: int, arguments: int) -> int:
    """To a string of at most size bytes from a va_list, fortified."""
    return vsnprintf(call, to, size, text, arguments)


@provides("__stdio_common_vfprintf", types="i Qpppp")
def common_vfprintf(call: LibraryCall, options: int, stream: int, text: int, locale: int, arguments: int) -> int:
    """What the headers of Windows make of printf and fprintf."""
    return vfprintf(call, stream, text, arguments)


@provides("__stdio_common_vsprintf", types="i Qpzppp")
def common_vsprintf(call: LibraryCall, options: int, to: int, size: int, text: int, locale: int, arguments: int) -> int:
    """What the headers of Windows make of sprintf and snprintf; sprintf gives no size."""
    written = _format(call, text, call.incoming.va_list(arguments))
    return _keep(call, to, min(size, len(written) + 1), written)


@provides("__acrt_iob_func", "__iob_func", types="p u")
def stream_of(call: LibraryCall, number: int) -> int:
    """Windows: stdin, stdout or stderr by number."""
    return call.library.streams[number % 3]


@provides("asprintf", types="i pp.")
def asprintf(call: LibraryCall, result: int, text: int) -> int:
    """To a string on the heap."""
    written = _format(call, text, call.incoming)
    address = aligned(call, len(written) + 1)
    call.memory.write(result, address.to_bytes(POINTER_SIZE, "little"))
    return _keep(call, address, len(written) + 1, written) if address else -1


@provides("puts", types="i p")
def puts(call: LibraryCall, text: int) -> int:
    """A line to stdout."""
    return _show(call, call.string(text) + b"\n")


@provides("fputs", "fputs_unlocked", types="i pp")
def fputs(call: LibraryCall, text: int, stream: int) -> int:
    """A string to a stream."""
    return _show(call, call.string(text), stream)


@provides("putchar", types="i i")
def putchar(call: LibraryCall, character: int) -> int:
    """A character to stdout."""
    call.library.write(0, bytes([character & 0xFF]))
    return character & 0xFF


@provides("fputc", "putc", "_IO_putc", types="i ip")
def fputc(call: LibraryCall, character: int, stream: int) -> int:
    """A character to a stream."""
    call.library.write(stream, bytes([character & 0xFF]))
    return character & 0xFF


@provides("fwrite", "fwrite_unlocked", types="z pzzp")
def fwrite(call: LibraryCall, data: int, size: int, count: int, stream: int) -> int:
    """Items to a stream."""
    call.library.write(stream, call.memory.read(data, size * count))
    return count


@provides("fflush", types="i p")
def fflush(call: LibraryCall, stream: int) -> int:
    """Nothing waits to be written."""
    return 0


@provides("perror", types="v p")
def perror(call: LibraryCall, text: int) -> None:
    """What errno says, to stderr."""
    import os

    number = int.from_bytes(call.memory.read(call.library.errno, 4), "little")
    call.library.write(call.library.streams[2], call.string(text) + b": " + os.strerror(number).encode() + b"\n")
