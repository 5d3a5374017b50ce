"""`python -m tconv` is `tconv`."""

from tconv.cli import main

main()
