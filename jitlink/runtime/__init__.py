"""What code needs while it runs, and what others need to see it: unwinding, debuggers, profilers, names."""
