"""The first Python code of a worker: loads the shim, imports the app, starts the threads.

The Go process runs this with `settings` in its globals and these descriptors open:

    3       the shim, an extension module in a sealed memfd
    5       the region: the shared memory of all lanes
    6       the control socket: we report "s" (a signal gives our stacks), "g" (an import has
            turned the GIL on), "r" (ready), or "i" and why the app cannot be imported;
            shim/control.c tells of the rest
    7 ...   two sockets for each lane: its doorbell, and one that passes descriptors of files

In a template (--preload) 5 is the socket that brings orders to fork workers, and the others from 7
on only keep the place: a worker that is forked finds its own under the same numbers.

Exit codes: 0 when told to finish, 4 when the app cannot be imported.
"""

import contextlib
import functools
import io
import linecache
import os
import stat
import sys
import threading
import traceback
import types
from importlib.machinery import ExtensionFileLoader, ModuleSpec

SHIM, REGION, CONTROL, SOCKETS = 3, 5, 6, 7
IMPORT_FAILED = 4
STACK_FRAMES_MAX = 100
STACK_THREADS_MAX = 300


class RequestTimeout(BaseException):
    """Raised in the thread of a request whose answer did not begin within --timeout.

    The client has its 504 already. Not an Exception, so that `except Exception` lets it pass: clean
    up and let it go on. It comes between two steps of Python code, not while a call into C blocks;
    a thread that is still busy 5 seconds after it costs the worker its place.
    """

    def __str__(self):
        return ", ".join(map(str, self.args)) or "the answer did not begin within --timeout"


RequestTimeout.__module__ = "gophersnake"


class FileWrapper:
    """wsgi.file_wrapper: iterates over blocks of a file-like object (PEP 3333)."""

    def __init__(self, filelike, block_size=65536):
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self):
        return self

    def __next__(self):
        data = self.filelike.read(self.block_size)
        if data:
            return data
        raise StopIteration


def plain_file(wrapper):
    """Return (descriptor, offset, length) of what is left of a regular file, else None.

    Only the io module's own binary files will do: others (gzip.GzipFile, a text file) have a
    descriptor too, but read() gives something else than the file holds.
    """
    file = wrapper.filelike
    raw = file.raw if type(file) in (io.BufferedReader, io.BufferedRandom) else file
    if type(raw) is not io.FileIO:
        return None
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        return None
    offset = file.tell()
    return file.fileno(), offset, max(0, found.st_size - offset)


def client_socket(fd):
    """Return a socket object for an upgraded client, which notes in `taken` that it was used."""
    return socket_class()(fileno=fd)


@functools.cache  # and not before the first upgrade: most workers never import socket for us
def socket_class():
    import socket

    class ClientSocket(socket.socket):
        """The client's connection, the app's own from its first use until the app returns."""

        taken = False

        def close(self):
            # Another thread of the app may sit in recv(), which close() alone does not end.
            if self.taken:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self, socket.SHUT_RDWR)
            super().close()

    def taking(name):
        plain = getattr(socket.socket, name)

        def method(self, *args, **kwargs):
            if not self.taken:
                self.taken = True
                socket.socket.settimeout(self, None)  # the server had it non-blocking
            return plain(self, *args, **kwargs)

        return method

    for name in ("detach", "dup", "fileno", "makefile", "recv", "recv_into", "recvmsg", "send",
                 "sendall", "sendmsg", "setblocking", "settimeout", "shutdown"):
        setattr(ClientSocket, name, taking(name))
    return ClientSocket


def load_shim():
    """Load the extension module from its descriptor: no file on disk, no ctypes."""
    path = f"/proc/self/fd/{SHIM}"
    loader = ExtensionFileLoader("_gophersnake", path)
    module = loader.create_module(ModuleSpec("_gophersnake", loader, origin=path))
    loader.exec_module(module)
    return module


def keep_to_ourselves():
    """Keep our descriptors out of the programs that the app starts."""
    for fd in range(SHIM, SOCKETS + 2 * settings["lanes"]):
        try:
            os.set_inheritable(fd, False)
        except OSError:
            pass  # 4 was closed when the settings were read


def source_module(name, source):
    module = types.ModuleType(name)
    exec(compile(source, "<gophersnake>", "exec"), module.__dict__)
    return module


def public_module():
    """Make `import gophersnake` work in the app: what stands there is ours to keep."""
    module = types.ModuleType("gophersnake", "What gophersnake gives to the apps it serves.")
    module.RequestTimeout = RequestTimeout
    module.__all__ = ["RequestTimeout"]
    sys.modules["gophersnake"] = module


def give_stacks(shim):
    """Let the parent have our stacks from now on, also while no thread gets the GIL."""
    number = settings["stacks_signal"]
    try:
        import faulthandler

        faulthandler.register(number, file=CONTROL, all_threads=True, chain=False)
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError):
        number = 0
    shim.watch(CONTROL, number, format_stacks, RequestTimeout)
    if number:
        os.write(CONTROL, b"s")


def is_ours(code):
    """Tell frames of the server and of threading's own start from those of the app."""
    if code.co_filename in ("<gophersnake>", "<string>"):
        return True
    bootstrap = code.co_name in ("_bootstrap", "_bootstrap_inner", "run")
    return bootstrap and code.co_filename == threading.__file__


def format_stack(frame):
    """Return lines for a thread's frames, the last call first, without ours at the bottom."""
    frames = []
    while frame is not None:
        if not frame.f_code.co_filename.startswith("<frozen importlib"):
            frames.append((frame.f_code, frame.f_lineno, frame.f_globals))
        frame = frame.f_back
    while frames and is_ours(frames[-1][0]):
        frames.pop()
    lines = []
    for code, number, names in frames[:STACK_FRAMES_MAX]:
        lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_name}')
        source = linecache.getline(code.co_filename, number or 0, names).strip()
        if source:
            lines.append(f"    {source}")
    if len(frames) > STACK_FRAMES_MAX:
        lines.append(f"  ... {len(frames) - STACK_FRAMES_MAX} more")
    return lines


def format_stacks(running):
    """Return the stacks of all threads as bytes; running: what the busy ones do, by ident.

    Runs on a thread that Python does not know. It takes no lock of threading: a thread that hangs
    may hold it.
    """
    names = {t.ident: t.name for t in list(threading._active.values())}
    here, busy, others, idle = threading.get_ident(), [], [], []
    for ident, frame in list(sys._current_frames().items())[:STACK_THREADS_MAX]:
        if ident == here:
            continue
        name, lines, what = names.get(ident, hex(ident)), format_stack(frame), running.get(ident)
        if what or lines:
            title = f"Thread {name}, {what}:" if what else f"Thread {name}:"
            (busy if what else others).append("\n".join([title, *lines]))
        elif name.startswith("gophersnake-"):
            idle.append(name)
    if idle:
        others.append("Idle: " + ", ".join(sorted(idle)))
    text = "\n".join(sorted(busy) + others).replace("\0", "\\0")
    return text.encode("utf-8", "backslashreplace")


def load_app():
    """Return the user's WSGI callable, or report why there is none and exit."""
    if settings["app"] == "gophersnake:demo":
        return source_module("gophersnake_demo", settings["demo"]).application
    resolve = source_module("_gophersnake_resolve", settings["resolve"])
    try:
        return resolve.load(settings["app"], settings["dir"])
    except BaseException as exc:  # SystemExit at import is a failure too
        report = "i" + resolve.format_failure(exc)
        with os.fdopen(CONTROL, "wb") as control:
            control.write(report.encode("utf-8", "backslashreplace"))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(IMPORT_FAILED)


def become_worker(shim):
    """Be a template until a fork of it is a worker: True there, False at the template's end."""
    template = source_module("_gophersnake_template", settings["template"])
    return template.run(shim, settings, REGION, CONTROL)


def environ_template(listener):
    """Return what is the same in every environ of one listener."""
    template = {
        "SCRIPT_NAME": "",
        "SERVER_NAME": listener["server_name"],
        "SERVER_PORT": listener["server_port"],
        "SERVER_SOFTWARE": "gophersnake",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": listener["scheme"],
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": settings["threads"] > 1,
        "wsgi.multiprocess": settings["multiprocess"],
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }
    if listener["scheme"] == "https":
        template["HTTPS"] = "on"
    return template


def log_exception(what, kind, value, trace):
    """Write an app's exception to the log in one piece."""
    text = "".join(traceback.format_exception(kind, value, trace))
    sys.stderr.write(f"{what}\n{text}")
    sys.stderr.flush()


def gil_is_back():
    """Tell whether a free-threaded Python has the GIL on after all: an import can do that."""
    return "t" in getattr(sys, "abiflags", "") and getattr(sys, "_is_gil_enabled", bool)()


def serve(shim):
    """Serve until told to finish. A lone thread is the main thread, as in a script."""
    if gil_is_back():
        os.write(CONTROL, b"g")
    threads = settings["threads"]
    if threads == 1:
        os.write(CONTROL, b"r")
        shim.serve(0, 1)
        return
    for i in range(threads):
        name = f"gophersnake-{i + 1}"
        threading.Thread(target=shim.serve, args=(i,), name=name, daemon=True).start()
    os.write(CONTROL, b"r")
    shim.wait()


def finish():
    """End what the app started: CherryPy's engine runs threads that only its exit() ends."""
    cherrypy = sys.modules.get("cherrypy")
    engine = getattr(cherrypy, "engine", None)
    if engine is not None and engine.state == engine.states.STARTED:
        engine.exit()


def main():
    keep_to_ourselves()
    sys.argv = [settings["app"]]
    shim = load_shim()
    os.close(SHIM)
    public_module()
    give_stacks(shim)
    app = load_app()
    if settings["template"] and not become_worker(shim):
        finish()
        return
    sockets = [SOCKETS + i for i in range(2 * settings["lanes"])]
    templates = [environ_template(listener) for listener in settings["listeners"]]
    shim.attach(
        REGION, CONTROL, sockets, app, templates, log_exception, FileWrapper, plain_file,
        client_socket,
    )
    serve(shim)
    finish()


main()
