"""`python -m minidl` is the command line."""

from minidl.cli import main

raise SystemExit(main())
