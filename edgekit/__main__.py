"""`python -m edgekit` is the command line."""

from edgekit.cli import main

raise SystemExit(main())
