"""From pictures to a model. Imports torch.

Read ``stage`` and ``recipe`` first (all settings of a run), then ``train`` (a run from data to weights file) and
``trainer`` (its steps and epochs). What they use: ``augment``, ``losses``, ``distillation``, ``optimizers`` (Muon, SAM,
SWA, the learning rate), ``distributed`` (several processes) and ``checkpoint`` (resuming). ``fit`` needs no labels: it
fits the hash layer of a pretrained trunk in closed form.
"""
