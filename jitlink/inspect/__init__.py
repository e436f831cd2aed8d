"""What people see of a link graph: views in text."""

from jitlink.inspect.link_map import link_map
from jitlink.inspect.listing import listing
from jitlink.inspect.text import Paper, escaped

__all__ = ["Paper", "escaped", "link_map", "listing"]
