"""`python -m segkernel` is the command `segkernel`."""

import sys

from segkernel.cli import main

sys.exit(main())
