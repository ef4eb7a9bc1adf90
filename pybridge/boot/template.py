"""The life of a template: a process that has imported the app and forks the workers (--preload).

    run(shim, settings, orders, control)    returns in each worker; in the template, at its end

An order is a worker's number, and its descriptors beside it. shim/template.c tells how the fork is
done and what is said on the orders socket.
"""

import _socket  # not socket, which the app may have patched
import contextlib
import gc
import os
import struct
import sys
import threading

ORDER = struct.Struct("=I")
REPORT = struct.Struct("=i")
DESCRIPTORS_MAX = 253  # SCM_MAX_FD


def lost_threads():
    """Name the threads that no worker will have: a fork copies only the one that calls it."""
    names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    native = len(os.listdir("/proc/self/task")) - 1 - len(names)
    if native > 0:
        names.append(f"{native} of C code")
    return names


def share_memory():
    """Keep the collector's hands off what is there now: its marks would unshare the pages."""
    gc.collect()
    gc.freeze()


def next_order(orders):
    """Return (worker's number, descriptors), or None when the parent wants no more."""
    room = _socket.CMSG_SPACE(DESCRIPTORS_MAX * struct.calcsize("i"))
    data, notes, _, _ = orders.recvmsg(ORDER.size, room, _socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    fds = []
    for _, _, packed in notes:
        fds += memoryview(packed).cast("i").tolist()
    return ORDER.unpack(data)[0], fds


def fork(shim, first, control, fds):
    """Return True in the worker, False in the template."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        middle = shim.fork(first, control, fds)
        if middle == 0:
            return True
        with contextlib.suppress(ChildProcessError):  # an app that ignores SIGCHLD
            os.waitpid(middle, 0)
    except OSError as exc:
        os.write(first, REPORT.pack(-exc.errno))
    for fd in fds:
        os.close(fd)
    os.write(first, REPORT.pack(0))
    return False


def run(shim, settings, first, control):
    """Fork a worker for each order: True in every worker, False in the template at its end."""
    threads = lost_threads()
    if threads:
        print(
            "gophersnake: --preload: these threads, which the app started at its import, do not "
            f"exist in the workers: {', '.join(threads)}; os.register_at_fork(after_in_child=...) "
            "can start them there",
            file=sys.stderr,
            flush=True,
        )
    shim.leave_signals()
    share_memory()
    orders = _socket.socket(fileno=first)
    orders.settimeout(None)  # whatever socket.setdefaulttimeout said
    os.write(control, b"r")
    while True:
        order = next_order(orders)
        if order is None:
            return False
        worker, fds = order
        if fork(shim, first, control, fds):
            orders.detach()  # its number is the region's now
            settings["worker"] = worker
            os.environ["GOPHERSNAKE_WORKER"] = str(worker)
            return True
