"""Looking at a recorded graph: what `minidl.explain` writes down and `minidl.draw` draws."""
