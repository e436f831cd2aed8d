"""`jitlink bpf run`: run a program on a packet, on memory, or on every packet of a capture."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from jitlink import UnreadableInput, UsageError
from jitlink.bpf import Coverage, Program, Result
from jitlink.cli.bpf import options
from jitlink.cli.bpf.captures import packets_of
from jitlink.cli.options import print_lines
from jitlink.escaping import escaped, escaped_lines
from jitlink.inspect.text import Paper

LINES_OF_DATA = 16
BYTES_IN_A_LINE = 16


@click.command("run")
@options.inputs
@options.program
@click.option("--data", "data_hex", metavar="HEX", help="The packet or memory, in hexadecimal.")
@click.option("--file", "data_file", type=click.Path(), metavar="FILE", help="A file with the packet or memory.")
@click.option("--pcap", type=click.Path(), metavar="FILE", help="Run on every packet of a capture.")
@click.option(
    "--field",
    "fields",
    multiple=True,
    callback=options.read_settings,
    metavar="NAME=VALUE",
    help="A field of the context, such as ingress_ifindex=2. Repeatable.",
)
@click.option("--budget", type=click.IntRange(min=1), metavar="N", help="How many instructions a run may take.")
@click.option("--maps", "maps_wanted", is_flag=True, help="Print what is in the maps afterwards.")
@click.option("--lcov", type=click.Path(), metavar="FILE", help="Write which source lines were reached.")
@options.loading
def command(
    inputs: tuple[str, ...],
    program: str | None,
    data_hex: str | None,
    data_file: str | None,
    pcap: str | None,
    fields: dict[str, int | str],
    budget: int | None,
    maps_wanted: bool,
    lcov: str | None,
    **loading: Any,
) -> None:
    """Run a BPF program and print what it returned.

    The program is that of objects, of assembly (.s) or of bytes of code. Without --data, --file and --pcap
    it runs on no bytes.
    """
    if sum(given is not None for given in (data_hex, data_file, pcap)) > 1:
        raise UsageError("one of --data, --file and --pcap says what to run on")
    chosen = options.chosen(options.load_inputs(inputs, **loading), program)
    coverage = Coverage() if lcov else None
    keywords: dict[str, Any] = {"ctx": fields, "hook": coverage}
    if budget is not None:
        keywords["budget"] = budget
    try:
        if pcap is not None:
            _run_capture(chosen, pcap, keywords)
        else:
            data = options.read_hex(data_hex) if data_hex is not None else b""
            data = options.read_file(data_file) if data_file is not None else data
            print_lines(_described(chosen.run(data, **keywords), data))
    finally:
        print_lines(f"trace: {escaped_lines(line.rstrip())}" for line in chosen.trace)
        if coverage is not None and lcov is not None:
            _write(lcov, chosen.lcov(coverage))
    if maps_wanted:
        print_lines(_contents(chosen))


def _described(result: Result, data: bytes) -> Iterator[str]:
    """The result in words, and the data where the program has changed it."""
    value = f"{result.action} ({result.retval})" if result.action else f"{result.retval} ({result.retval:#x})"
    yield f"result: {value}"
    yield f"instructions: {result.instructions:,}"
    if result.data != data:
        yield f"data: {len(result.data)} bytes, changed"
        yield from _hexdump(result.data)


def _hexdump(data: bytes) -> Iterator[str]:
    for at in range(0, min(len(data), LINES_OF_DATA * BYTES_IN_A_LINE), BYTES_IN_A_LINE):
        yield f"  {at:04x}  {data[at : at + BYTES_IN_A_LINE].hex(' ')}"
    if len(data) > LINES_OF_DATA * BYTES_IN_A_LINE:
        yield f"  and {len(data) - LINES_OF_DATA * BYTES_IN_A_LINE} more bytes"


def _run_capture(program: Program, path: str, keywords: dict[str, Any]) -> None:
    """Run on every packet of a capture, and print how often the program returned what."""
    outcomes: Counter[str] = Counter()
    instructions = changed = 0
    packets = packets_of(path)
    for packet in _with_progress(packets):
        result = program.run(packet, **keywords)
        outcomes[result.action or str(result.retval)] += 1
        instructions += result.instructions
        changed += result.data != packet
    count = len(packets)
    rows = [(outcome, f"{times:,}", f"{times / count:.1%}") for outcome, times in outcomes.most_common()]
    print_lines([f"packets: {count:,}, of which {changed:,} were changed"])
    print_lines(Paper().table(rows, right=(1, 2)))
    print_lines([f"instructions: {instructions:,}" + (f", {instructions / count:.1f} a packet" if count else "")])


def _with_progress(packets: Sequence[bytes]) -> Iterator[bytes]:
    """Go over packets, with a progress bar where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield from packets
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(packets, "packets", console=Console(stderr=True), transient=True)


def _contents(program: Program) -> Iterator[str]:
    """The elements of every map that can be listed."""
    for name, map in program.maps.items():
        yield f"map {escaped(name)} ({map.type.name.lower()})"
        for key in map:
            yield escaped_lines(f"  {key!r}: {map[key]!r}" if _has_keys(map.type.name) else f"  {key!r}")


def _has_keys(type: str) -> bool:
    """Whether a map is read by key; going over the others gives what is in them."""
    return type not in ("RINGBUF", "PERF_EVENT_ARRAY", "QUEUE", "STACK", "BLOOM_FILTER")


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise UnreadableInput(str(error.strerror), input=path) from error
