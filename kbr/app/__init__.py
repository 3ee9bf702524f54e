"""Use cases: one function a command, wired from the configuration. Knows no command line and prints nothing."""
