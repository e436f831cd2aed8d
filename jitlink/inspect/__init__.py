"""What people see of a link graph: views in text."""

from jitlink.escaping import escaped
from jitlink.inspect.link_map import link_map
from jitlink.inspect.listing import listing
from jitlink.inspect.text import Paper

__all__ = ["Paper", "escaped", "link_map", "listing"]
