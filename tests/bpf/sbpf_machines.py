"""The tiers that SBPF programs are tested on."""

TIERS = ["interpreter", "llvm"]
