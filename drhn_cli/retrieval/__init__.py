"""From questions to answers: what is searched, queries, near-duplicates."""
