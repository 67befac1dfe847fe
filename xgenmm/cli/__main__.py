import sys

from xgenmm.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
