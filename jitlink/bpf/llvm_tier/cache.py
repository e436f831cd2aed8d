"""Objects kept on disk, from one process to the next.

A file's name is the hash of all that decides its content; the file begins with the hash of the object in it, so
that one that was cut or changed is not used. Files are written under another name and then renamed: a
reader sees all of one or nothing. Whoever can write here chooses code that we run. So the directory is used only
if it is ours and nobody else may write to it.

It lies in $XDG_CACHE_HOME (~/.cache where that is not set; XDG Base Directory Specification). A cache that cannot
be read or written is none, and no error.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

_HASH = sha256().digest_size
MOST_BYTES = 256 << 20
"""How much is kept; what was not used for longest makes room."""


class ObjectCache:
    """A directory of objects. Attributes: directory."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or default_directory()

    @staticmethod
    def key(parts: Iterable[str]) -> str:
        """The name for what is made of these texts."""
        hashed = sha256()
        for part in parts:
            data = part.encode()
            hashed.update(len(data).to_bytes(8, "little") + data)
        return hashed.hexdigest()

    def get(self, key: str) -> bytes | None:
        """What was kept under a name, or None."""
        if not self._is_safe():
            return None
        path = self.directory / key
        try:
            data = path.read_bytes()
            if sha256(data[_HASH:]).digest() != data[:_HASH]:
                return None
            os.utime(path)
        except OSError:
            return None
        return data[_HASH:]

    def put(self, key: str, content: bytes) -> None:
        """Keep something under a name."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_safe():
                return
            handle, name = tempfile.mkstemp(dir=self.directory)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(sha256(content).digest() + content)
                os.replace(name, self.directory / key)
            except BaseException:
                os.unlink(name)
                raise
            self._make_room()
        except OSError:
            return

    def _is_safe(self) -> bool:
        """Whether nobody but us can have written here."""
        try:
            found = self.directory.lstat()
        except OSError:
            return False
        ours = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        return stat.S_ISDIR(found.st_mode) and ours and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def _make_room(self) -> None:
        with os.scandir(self.directory) as entries:
            files = [(entry.stat(), entry.path) for entry in entries]
        total = sum(each.st_size for each, _ in files)
        for each, path in sorted(files, key=lambda pair: pair[0].st_mtime):
            if total <= MOST_BYTES:
                return
            os.unlink(path)
            total -= each.st_size


def default_directory() -> Path:
    """Where objects are kept."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return root / "jitlink" / "bpf"
