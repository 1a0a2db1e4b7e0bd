"""From questions to answers.

Read ``gallery`` first (what is searched: a code file or a table), then ``query`` (pictures and codes that are looked
up) and ``duplicates`` (groups of near-duplicates by codes). For copies read ``verify`` (what two pictures are to each
other; ``alignment`` finds how one lies in the other), ``pairs`` (many of them, opened in threads; ``verdict_cache``
remembers), then ``copies`` (groups of ``pictures``, and which may go).
"""
