"""A whole database engine out of a static library: SQLite from Debian's libsqlite3.a.

Members of an archive are linked when something asks for what they define, here each function at its
first use. What SQLite itself needs (malloc, pthread_mutex_lock, ...) comes from the running process,
and the mathematical functions from libm. Usage: python archive.py [path of libsqlite3.a]
"""

import sys
import sysconfig
from pathlib import Path

import jitlink

DEBIAN = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH")) / "libsqlite3.a"
DECLARATIONS = """
typedef struct sqlite3 sqlite3;
const char *sqlite3_libversion(void);
int sqlite3_open(const char *, sqlite3 **);
int sqlite3_close(sqlite3 *);
int sqlite3_exec(sqlite3 *, const char *, int (*)(void *, int, char **, char **), void *, char **);
"""
STATEMENTS = b"""
create table squares (n integer primary key, square integer);
with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < 10000)
insert into squares select n, n * n from numbers;
"""

path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEBIAN
math = jitlink.shared_library("libm.so.6")

with jitlink.load(path, link_against=[jitlink.process(), math]) as sqlite:
    sqlite.cdef(DECLARATIONS)
    ffi = sqlite.ffi
    print(f"SQLite {ffi.string(sqlite.sqlite3_libversion()).decode()}")
    handle = ffi.new("sqlite3 **")
    assert sqlite.sqlite3_open(b":memory:", handle) == 0
    database = handle[0]
    assert sqlite.sqlite3_exec(database, STATEMENTS, ffi.NULL, ffi.NULL, ffi.NULL) == 0

    @ffi.callback("int(void *, int, char **, char **)")
    def print_row(_: object, columns: int, values: list[object], names: list[object]) -> int:
        """Called by SQLite for each row of a result."""
        for column in range(columns):
            print(f"{ffi.string(names[column]).decode()} = {ffi.string(values[column]).decode()}")
        return 0

    question = b"select count(*) as rows, sum(square) as total from squares"
    assert sqlite.sqlite3_exec(database, question, print_row, ffi.NULL, ffi.NULL) == 0
    sqlite.sqlite3_close(database)
