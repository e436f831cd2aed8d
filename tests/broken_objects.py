"""Objects that are wrong in one place, and the fault that each must be refused with.

A sound object is assembled, and one field of it is set, by the names that the gABI gives the fields.
FAULTS has the text of the one error for each wrong field; {data}, {entry} and {shared} stand for the
numbers of that section and of those symbols.
"""

from __future__ import annotations

from collections.abc import Callable

from tests import toolchain

# gABI, chapter 4: offset and width of each field.
HEADER = {"type": (16, 2), "shoff": (40, 8), "shentsize": (58, 2), "shnum": (60, 2), "shstrndx": (62, 2)}
SECTION = {"name": (0, 4), "type": (4, 4), "flags": (8, 8), "offset": (24, 8), "size": (32, 8), "link": (40, 4)}
SECTION |= {"info": (44, 4), "addralign": (48, 8), "entsize": (56, 8)}
SYMBOL = {"name": (0, 4), "info": (4, 1), "shndx": (6, 2), "value": (8, 8), "size": (16, 8)}
RELOCATION = {"offset": (0, 8), "type": (8, 4), "symbol": (12, 4), "addend": (16, 8)}
GROUP_WORD = {"member": (0, 4)}
SHT_SYMTAB, SHT_NOBITS, SHT_GROUP = 2, 8, 17
SHN_XINDEX, SHN_LOPROC = 0xFFFF, 0xFF00

SOURCE = """
    .section .text.grouped,"axG",@progbits,grouped,comdat
    .globl grouped
grouped: ret
    .section .data.grouped,"awG",@progbits,grouped,comdat
    .quad 0
    .text
    .globl entry
entry: movq outside@GOTPCREL(%rip), %rax
    call grouped@PLT
    ret
    .data
    .globl table
table: .quad entry, table
    .comm shared, 64, 32
"""


class Object:
    """The bytes of a sound object, whose fields can be set."""

    def __init__(self) -> None:
        self.content = bytearray(toolchain.assemble(SOURCE))

    def get(self, place: int, field: tuple[int, int]) -> int:
        """The value of a field of the record at a place."""
        return int.from_bytes(self.content[place + field[0] : place + sum(field)], "little")

    def put(self, place: int, field: tuple[int, int], value: int) -> None:
        """Set a field of the record at a place."""
        self.content[place + field[0] : place + sum(field)] = (value % (1 << 8 * field[1])).to_bytes(field[1], "little")

    def sections(self) -> dict[str, int]:
        """The place of each section header, by the section's name; of several the first."""
        table, count = self.get(0, HEADER["shoff"]), self.get(0, HEADER["shnum"])
        places = [table + 64 * number for number in range(count)]
        names = self.get(places[self.get(0, HEADER["shstrndx"])], SECTION["offset"])
        found: dict[str, int] = {}
        for place in places:
            start = names + self.get(place, SECTION["name"])
            found.setdefault(self.content[start : self.content.index(0, start)].decode(), place)
        return found

    def number(self, section: str) -> int:
        """The index of a section."""
        return (self.sections()[section] - self.get(0, HEADER["shoff"])) // 64

    def record(self, section: str, size: int, row: int) -> int:
        """The place of a record of a table section."""
        return self.get(self.sections()[section], SECTION["offset"]) + size * row

    def symbol(self, name: str) -> int:
        """The place of a symbol."""
        strings = self.record(".strtab", 1, 0)
        count = self.get(self.sections()[".symtab"], SECTION["size"]) // 24
        for row in range(count):
            place = self.record(".symtab", 24, row)
            start = strings + self.get(place, SYMBOL["name"])
            if self.content[start : self.content.index(0, start)].decode() == name:
                return place
        raise KeyError(name)

    def set_header(self, field: str, value: int) -> None:
        self.put(0, HEADER[field], value)

    def set_section(self, section: str, field: str, value: int) -> None:
        self.put(self.sections()[section], SECTION[field], value)

    def set_symbol(self, name: str, field: str, value: int) -> None:
        self.put(self.symbol(name), SYMBOL[field], value)

    def set_relocation(self, row: int, field: str, value: int) -> None:
        self.put(self.record(".rela.text", 24, row), RELOCATION[field], value)

    def set_group_word(self, row: int, value: int) -> None:
        self.put(self.record(".group", 4, row), GROUP_WORD["member"], value)


Change = Callable[[Object], None]
Value = int | Callable[[Object], int]


def header(field: str, value: Value) -> Change:
    return lambda o: o.set_header(field, value(o) if callable(value) else value)


def section(name: str, field: str, value: Value) -> Change:
    return lambda o: o.set_section(name, field, value(o) if callable(value) else value)


def null_section(field: str, value: int) -> Change:
    return lambda o: o.put(o.get(0, HEADER["shoff"]), SECTION[field], value)


def symbol(name: str, field: str, value: int) -> Change:
    return lambda o: o.set_symbol(name, field, value)


def relocation(field: str, value: Value) -> Change:
    return lambda o: o.set_relocation(0, field, value(o) if callable(value) else value)


def member(row: int, value: Value) -> Change:
    return lambda o: o.set_group_word(row, value(o) if callable(value) else value)


def both(*changes: Change) -> Change:
    def make(o: Object) -> None:
        for change in changes:
            change(o)

    return make


def number_of(name: str) -> Callable[[Object], int]:
    return lambda o: o.number(name)


def value_of(name: str, field: str, more: int = 0) -> Callable[[Object], int]:
    return lambda o: o.get(o.sections()[name], SECTION[field]) + more


def first_member(o: Object) -> int:
    return o.get(o.record(".group", 4, 1), (0, 4))


HEADERS_OUTSIDE = "its section headers lie past the end of the file"
HEADERS_CUT = "its section headers go past the end of the file"
HEADER_SIZE = "its section headers are not 64 bytes each"
NAMES_INDEX = "the index of its section name table is out of range"
HEADER_FAULTS = {
    "shoff past the end": (HEADERS_OUTSIDE, header("shoff", 1 << 40)),
    "shoff wraps": (HEADERS_OUTSIDE, header("shoff", -64)),
    "shnum too high": (HEADERS_CUT, header("shnum", 0xFEFF)),
    "shnum extended": (HEADERS_CUT, both(header("shnum", 0), null_section("size", 1 << 60))),
    "shentsize": (HEADER_SIZE, header("shentsize", 63)),
    "shentsize zero": (HEADER_SIZE, header("shentsize", 0)),
    "no shoff": ("it has section headers at offset 0", header("shoff", 0)),
    "shstrndx": (NAMES_INDEX, header("shstrndx", 999)),
    "shstrndx extended": (NAMES_INDEX, both(header("shstrndx", SHN_XINDEX), null_section("link", 1 << 31))),
    "version": ("unknown ELF version 2", lambda o: o.content.__setitem__(6, 2)),
}

PAST_THE_END = "section {data} goes past the end of the file"
ALIGNMENT = "the alignment of a section is not a power of two up to 2**30"
NO_STRINGS = "a section that is used as string table is none"
NO_END = "a string table does not end with a NUL byte"
UNBOUND = both(section(".data.grouped", "type", SHT_NOBITS), section(".data.grouped", "size", -1))
SECTION_FAULTS = {
    "offset past the end": (PAST_THE_END, section(".data", "offset", 1 << 32)),
    "size past the end": (PAST_THE_END, section(".data", "size", 1 << 20)),
    "offset and size wrap": (PAST_THE_END, both(section(".data", "offset", -8), section(".data", "size", 16))),
    "overlap": (
        "two of its sections share bytes of the file",
        section(".data", "offset", value_of(".text", "offset")),
    ),
    "link": ("section {data} is linked to a section that is not there", section(".data", "link", 4000)),
    "name": ("the name of section {data} lies outside the name table", section(".data", "name", 1 << 31)),
    "alignment 3": (ALIGNMENT, section(".data", "addralign", 3)),
    "alignment huge": (ALIGNMENT, section(".data", "addralign", 1 << 40)),
    "bss without end": ("the size of a section is out of all bounds", UNBOUND),
    "name table is none": (NO_STRINGS, header("shstrndx", number_of(".data"))),
    "symbol names are none": (NO_STRINGS, section(".symtab", "link", number_of(".data"))),
    "string table without end": (NO_END, section(".strtab", "size", value_of(".strtab", "size", -1))),
}

NO_SYMBOLS = "its symbol table is not made of 24-byte records"
BAD_COMMON = "a common symbol whose alignment is no power of two, or of boundless size"
NO_INDICES = "a symbol needs an extended index table, and there is none"
SYMBOL_FAULTS = {
    "two symbol tables": ("it has two symbol tables", section(".data", "type", SHT_SYMTAB)),
    "symbol record size": (NO_SYMBOLS, section(".symtab", "entsize", 23)),
    "symbol table size": (NO_SYMBOLS, section(".symtab", "size", value_of(".symtab", "size", -1))),
    "symbol name": ("the name of symbol {entry} lies outside the string table", symbol("entry", "name", 1 << 30)),
    "symbol section": ("symbol {entry} is in a section that is not there", symbol("entry", "shndx", 4000)),
    "reserved section": ("a symbol has an unknown reserved section index", symbol("entry", "shndx", SHN_LOPROC)),
    "extended section": (NO_INDICES, symbol("entry", "shndx", SHN_XINDEX)),
    "binding": ("symbol {entry} has an unknown binding", symbol("entry", "info", 0x72)),
    "common alignment": (BAD_COMMON, symbol("shared", "value", 33)),
    "common size": (BAD_COMMON, symbol("shared", "size", 1 << 63)),
}

OUTSIDE = "a relocation lies outside its section"
NO_RELOCATIONS = "a relocation section is not made of 24-byte records"
RELOCATION_FAULTS = {
    "offset past the section": (OUTSIDE, relocation("offset", 1 << 20)),
    "relocation offset wraps": (OUTSIDE, relocation("offset", -4)),
    "field past the section": (OUTSIDE, relocation("offset", value_of(".text", "size", -3))),
    "relocation symbol": ("a relocation refers to a symbol that is not there", relocation("symbol", 4000)),
    "relocation record size": (NO_RELOCATIONS, section(".rela.text", "entsize", 16)),
    "relocation table size": (NO_RELOCATIONS, section(".rela.text", "size", 25)),
    "relocated section": (
        "a relocation section relocates a section that is not there",
        section(".rela.text", "info", 4000),
    ),
    "zero-fill": ("a relocation section relocates one without content", section(".data", "type", SHT_NOBITS)),
    "symbols of relocations": (
        "a relocation section is not linked to the symbol table",
        section(".rela.text", "link", number_of(".strtab")),
    ),
}

NO_GROUP = "a section group is not a table of 4-byte words"
NO_MEMBER = "a section group has a member that is not there"
GROUP_FAULTS = {
    "group size": (NO_GROUP, section(".group", "size", 6)),
    "group without flags": (NO_GROUP, section(".group", "size", 0)),
    "member": (NO_MEMBER, member(1, 4000)),
    "null member": (NO_MEMBER, member(1, 0)),
    "group in itself": ("a section group has a group as its member", member(1, number_of(".group"))),
    "member twice": ("a section is in two section groups", member(2, first_member)),
    "signature": ("the signature of a section group is not there", section(".group", "info", 4000)),
}
FAULTS = HEADER_FAULTS | SECTION_FAULTS | SYMBOL_FAULTS | RELOCATION_FAULTS | GROUP_FAULTS
