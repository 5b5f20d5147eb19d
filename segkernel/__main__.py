"""`python -m segkernel`: the command `segkernel`."""

import sys

from segkernel._cli import main

sys.exit(main())
