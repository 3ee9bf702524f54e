"""Where workers run. ``local``: processes of this machine, from a forkserver."""
