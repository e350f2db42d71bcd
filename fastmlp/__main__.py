"""`python -m fastmlp` is the command `fastmlp`."""

import sys

from .cli import main

sys.exit(main())
