"""`python -m ipivrs` is `ipivrs`."""

from ipivrs.starting import start

start()
