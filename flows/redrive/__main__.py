"""`python -m flows.redrive`: the command itself is in `flows.redrive.command`."""

from flows.redrive.command import app

if __name__ == "__main__":
    app(prog_name="python -m flows.redrive")
