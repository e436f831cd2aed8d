"""What people see of a link graph: views in text, JSON and drawings, of what was read or of a link's stages."""

from jitlink.escaping import escaped
from jitlink.inspect.link_map import link_map
from jitlink.inspect.listing import Look, listing
from jitlink.inspect.selection import Filter
from jitlink.inspect.stages import Snapshot, Watched, watch
from jitlink.inspect.text import Paper

__all__ = ["Filter", "Look", "Paper", "Snapshot", "Watched", "escaped", "link_map", "listing", "watch"]
