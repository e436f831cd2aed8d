"""Passes: each takes the link graph and leaves it changed, as its docstring says."""
