"""From questions to answers.

Read ``gallery`` first (what is searched: a code file or a table), then ``query`` (pictures and codes that are looked
up) and ``duplicates`` (groups of near-duplicates, and the comparison of two pictures).
"""
