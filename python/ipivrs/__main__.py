"""`python -m ipivrs` is `ipivrs`."""

from ipivrs.cli import app

app(prog_name="ipivrs")
