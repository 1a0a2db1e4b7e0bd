"""Codes in a table of ClickHouse, on a server or embedded (chdb).

Read ``connection`` first (addresses, too), then ``schema`` (the two tables and their rows), ``push`` (from a code file
into a table) and ``table`` (search).
"""
