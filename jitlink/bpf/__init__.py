"""BPF: link it, load it, verify it and run it, in user space."""
