"""`python -m jitlink` is the command `jitlink`."""

from jitlink.cli import main

if __name__ == "__main__":
    main(prog_name="jitlink")
