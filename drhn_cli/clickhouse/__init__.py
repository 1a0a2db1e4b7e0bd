"""Codes in a table of ClickHouse, on a server or embedded (chdb).

Read ``url`` first (where a table is), then ``connection``, ``schema`` (the two tables, and rows for them), ``push`` (a
code file into a table) and ``table`` (search).
"""
