"""`python -m penjing`: the same as the command `penjing`."""

from penjing.cli import main

if __name__ == "__main__":
    main()
