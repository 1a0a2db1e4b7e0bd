"""Codes in a table of ClickHouse: a server, a cluster, or the engine embedded in this process (chDB)."""
