"""`python -m segkernel` is the command `segkernel`."""

import sys

from segkernel._cli import main

sys.exit(main())
