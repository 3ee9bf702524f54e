"""What test workers do: imports nothing but the standard library, runs in worker processes."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time

from kbr.errors import CorruptSegment


class OnlyPickles:
    """Can be sent, but not be read: reading it raises."""

    def __reduce__(self):
        return (_fail, ("this can't be read",))


def _fail(text: str) -> None:
    raise LookupError(text)


def work(payload, context):
    """Do what the payload says: (verb, argument)."""
    verb, argument = payload
    return VERBS[verb](argument, context)


def _pid(_argument, context):
    context.emit(os.getpid())
    return os.getpid()


def _until_stopped(argument, context):
    context.emit(os.getpid())
    while not context.stop_requested():
        time.sleep(0.005)
    return f"partial {argument}"


def _terminated_in_its_last_moment(_argument, _context):
    os.kill(os.getpid(), signal.SIGTERM)
    return "cut short"


def _deaf(_argument, context):
    context.emit(os.getpid())
    threading.Event().wait()


def _deaf_with_the_gil(_argument, context):
    context.emit(os.getpid())
    ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the GIL: no other thread of this process runs


def _append_for_ever(argument, context):
    context.emit(os.getpid())
    with open(argument, "ab", buffering=0) as stream:
        while True:
            stream.write(b"x")
            time.sleep(0.002)


def _once(argument, context):
    """Do the first verb where nobody did it before (the file tells), the second one else."""
    path, first, second = argument
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return work(second, context)
    return work(first, context)


def _kill_self(argument, _context):
    os.kill(os.getpid(), argument)
    signal.pause()


def _eat_memory(argument, _context):
    resource = __import__("resource")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as stream:
        now = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + argument, hard))
    try:
        held = []
        while True:
            held.append(bytearray(1 << 20))
    finally:
        held = None
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _raise_what_no_task_may_raise(_argument, context):
    # a library's thread that is no daemon, for which the interpreter's own end would wait
    threading.Thread(target=threading.Event().wait).start()
    context.emit(os.getpid())
    raise KeyboardInterrupt


def _emit_what_cannot_be_sent(_argument, context):
    context.emit(threading.Lock())


def _emit_what_cannot_be_read(_argument, context):
    context.emit(OnlyPickles())
    threading.Event().wait()


def _result_that_cannot_be_read(_argument, _context):
    return OnlyPickles()


def _error_with_odd_facts(_argument, _context):
    raise CorruptSegment("s: bad", hint="look", object="s", lock=threading.Lock())


def _exit_politely(argument, _context):
    sys.exit(argument)


def _emit_many(argument, context):
    count, size = argument
    for number in range(count):
        context.emit((number, b"x" * size))
    return count


def _emit_from_threads(argument, context):
    threads = [threading.Thread(target=_emit_many, args=(argument, context)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _length(argument, _context):
    return len(argument)


def _log(argument, _context):
    log = logging.getLogger("kbr.test")
    log.debug("too little")
    log.info("a line of %s", argument, extra={"kbr_fields": {"topic": "t", "partition": 3}})
    logging.getLogger("some.library").warning("a library warns")
    try:
        raise ValueError("\x1b[31mred")
    except ValueError:
        log.exception("it failed")


def _write_to_stderr(argument, _context):
    sys.stderr.write(argument)  # and no newline: it may not be lost at the end
    print("on stdout", end="")


def _modules(_argument, _context):
    return sorted(sys.modules)


def _surroundings(_argument, _context):
    import __main__

    return {
        "main": getattr(__main__, "__file__", None),
        "argv": sys.argv,
        "environ": dict(os.environ),
        "environ_of_process": open("/proc/self/environ", "rb").read(),
        "environ_of_parent": open(f"/proc/{os.getppid()}/environ", "rb").read(),
        "parent_threads": len(os.listdir(f"/proc/{os.getppid()}/task")),
        "parent": os.getppid(),
        "core": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE)[0],
    }


def _worker_id(_argument, context):
    return context.worker_id


VERBS = {name.removeprefix("_"): value for name, value in globals().items() if name.startswith("_") and callable(value)}
