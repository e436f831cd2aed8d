"""Answers about a link: why a symbol is in it, who refers to it, what a relocation computes, what may go wrong,
and what takes the room.

Each answer is a small dataclass with a text form, for people, and a plain form, for JSON.
"""

from jitlink.inspect.explain.preflight import Finding, Preflight, preflight
from jitlink.inspect.explain.references import Reference, Who, Why, who, why
from jitlink.inspect.explain.relocation import Relocation, relocation_at
from jitlink.inspect.explain.size import Sizes, size_of, treemap

__all__ = [
    "Finding",
    "Preflight",
    "Reference",
    "Relocation",
    "Sizes",
    "Who",
    "Why",
    "preflight",
    "relocation_at",
    "size_of",
    "treemap",
    "who",
    "why",
]
