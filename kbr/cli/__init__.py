"""The command line: flags in, one use case of kbr.app called, its report rendered.

Owns flags, tables, messages and exit codes. Holds no logic of backups. Only `kbr.cli.main` is imported at start-up;
each verb's module is loaded when the verb runs.
"""
