#!/usr/bin/python3
"""Runs a script, and exits as soon as it has ended: quick-exit SCRIPT [ARGUMENT]...

Python would then free all its objects one by one, and so write to most of the memory that a copy shares with its
template.
"""
import atexit, os, sys, threading, types


def run(path):
    """Runs a script as python3 does, and returns its exit status."""
    main = types.ModuleType("__main__")
    main.__file__ = path
    sys.modules["__main__"] = main
    sys.path[0] = os.path.dirname(path)
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec")
        exec(code, main.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


del sys.argv[0]
status = run(sys.argv[0])
try:
    if threading.active_count() > 1:
        threading._shutdown()  # waits for the others
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream and not stream.closed:
            stream.flush()
except OSError:
    status = status or 120  # as Python's own
finally:
    os._exit(status)
