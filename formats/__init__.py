"""Formats of objects and archives: bytes of many inputs to one link graph, and no linking decisions."""
