"""What test workers do. Loaded in worker processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time


def work(payload, context):  # noqa: ANN001, ANN201
    """Do what the payload says: (verb, argument)."""
    verb, argument = payload
    return _VERBS[verb](argument, context)


def _echo(argument, context):
    context.emit(("echoed", argument))
    return argument


def _raise(argument, _context):
    raise argument


def _exit(argument, _context):
    os._exit(argument)


def _kill(argument, _context):
    os.kill(os.getpid(), argument)
    signal.pause()


def _until_stopped(argument, context):
    context.emit(("pid", os.getpid()))
    while not context.stop_requested():
        time.sleep(0.01)
    return f"partial {argument}"


def _deaf(argument, context):
    context.emit(("pid", os.getpid()))
    threading.Event().wait()


def _unpicklable(_argument, _context):
    return threading.Lock()


def _modules(argument, _context):
    for name in argument:
        __import__(name)
    return sorted(sys.modules)


def _main(_argument, _context):
    return getattr(sys.modules["__main__"], "__file__", None), sys.argv


_VERBS = {
    "echo": _echo,
    "raise": _raise,
    "exit": _exit,
    "kill": _kill,
    "until_stopped": _until_stopped,
    "deaf": _deaf,
    "unpicklable": _unpicklable,
    "modules": _modules,
    "main": _main,
}
