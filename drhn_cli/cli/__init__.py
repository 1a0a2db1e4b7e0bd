"""The command line: one file a command; each parses, calls one job, and renders what it returns."""
