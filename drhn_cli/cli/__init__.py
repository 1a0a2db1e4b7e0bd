"""The command line. A command reads its arguments, calls one function of the core and writes the result.

Read ``app`` first (the commands, exit statuses, errors and signals), then ``options`` (shared by several commands),
``output`` (stdout, stderr, progress) and the commands: ``collection``, ``retrieval``, ``duplicates`` (whose script
``removal`` writes), ``words`` and ``training``.
``manual`` writes the command reference and the man pages from the help.
"""
