"""From labelled pictures to a model. Imports torch.

Read ``recipe`` first (all settings of a run), then ``train`` (a run from data to weights file) and ``trainer`` (its
steps and epochs). What they use: ``augment``, ``losses``, ``distillation``, ``optimizers`` (Muon, SAM, SWA, the
learning rate), ``distributed`` (several processes) and ``checkpoint`` (resuming).
"""
