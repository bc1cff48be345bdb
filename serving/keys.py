"""Deprecated name of `python -m serving.api_keys_cli`; it works for this release."""

from serving.api_keys_cli import app

if __name__ == "__main__":
    app(prog_name="python -m serving.keys")
