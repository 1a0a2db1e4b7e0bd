"""From questions to answers.

Read ``gallery`` first (what is searched: a code file or a table), then ``query`` (pictures, codes and words that are
looked up), ``vocabulary`` (which words a model understands), ``words`` (how likely pictures show them) and
``duplicates`` (groups of near-duplicates by codes). For copies read ``verify`` (what two pictures are to each other;
``alignment`` finds how one lies in the other), ``pairs`` (many of them, opened in threads; ``verdict_cache``
remembers), then ``copies`` (groups of ``pictures``, and which may go).
"""
