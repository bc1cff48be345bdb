"""`python -m flows.bring`: the command itself is in `flows.bring.command`."""

from flows.bring.command import app

if __name__ == "__main__":
    app(prog_name="python -m flows.bring")
