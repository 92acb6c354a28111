"""`python -m evar COMMAND` is the console command `evar`, also where it is not installed."""

from evar.cli import main

if __name__ == "__main__":
    main()
