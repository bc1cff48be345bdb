"""`python -m flows.erase`: the command itself is in `flows.erase.command`."""

from flows.erase.command import app

if __name__ == "__main__":
    app(prog_name="python -m flows.erase")
