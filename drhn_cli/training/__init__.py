"""From labelled pictures to a model. Needs torch."""
