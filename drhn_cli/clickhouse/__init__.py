"""Codes in a table of ClickHouse, on a server or embedded (chdb).

Read ``url`` first (addresses), then ``connection``, ``schema`` (the two tables and their rows), ``push`` (from a code
file into a table) and ``table`` (search).
"""
