"""`python -m flows.generate`: the command itself is in `flows.generate.command`."""

from flows.generate.command import app

if __name__ == "__main__":
    app(prog_name="python -m flows.generate")
