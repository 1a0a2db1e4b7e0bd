"""From questions to answers.

Read ``gallery`` first (what is searched: a code file or a table), then ``query`` (pictures, codes and words that are
looked up), ``vocabulary`` (which words a model understands), ``words`` (how likely pictures show them) and
``duplicates`` (groups of near-duplicates, and the comparison of two pictures).
"""
