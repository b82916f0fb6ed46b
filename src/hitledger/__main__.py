"""`python -m hitledger` is `hitledger`."""

from hitledger.cli import main

if __name__ == "__main__":
    main()
