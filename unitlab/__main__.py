"""``python -m unitlab``."""

from __future__ import annotations

import sys

from unitlab.cli import main

sys.exit(main())
