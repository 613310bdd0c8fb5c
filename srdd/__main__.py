"""`python -m srdd` is the command `srdd`."""

from srdd.cli.app import main

if __name__ == "__main__":
    main()
