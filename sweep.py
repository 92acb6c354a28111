"""`python sweep.py --help` explains it; the work is in evar/."""

from evar.cli import run

if __name__ == "__main__":
    run("sweep")
