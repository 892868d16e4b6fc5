"""The colours and fonts of all that minidl shows: the report, drawn graphs, explanations."""

PAPER, INK, SOFT, LINE = "#fcfbf8", "#1d1d1b", "#6a6963", "#e2dfd6"
BLUE, ORANGE, GREEN, VIOLET, RED = "31 95 158", "190 101 22", "60 122 76", "124 84 150", "178 58 36"  # r g b
SERIF = '"Iowan Old Style", Charter, "Palatino Linotype", Palatino, "Book Antiqua", Georgia, serif'
SANS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif'
MONO = 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace'
