"""The first Python code of a worker: loads the shim, imports the app, starts the threads.

The Go process runs this with `settings` in its globals and these descriptors open:

    3       the shim, an extension module in a sealed memfd
    5       the region: the shared memory of all lanes
    6       the control socket: we report "r" (ready), or "i" and why the app cannot be imported
    7 ...   two sockets for each lane: its doorbell, and one that passes descriptors of files

Exit codes: 0 when told to finish, 4 when the app cannot be imported.
"""

import contextlib
import functools
import io
import os
import stat
import sys
import threading
import traceback
import types
from importlib.machinery import ExtensionFileLoader, ModuleSpec

SHIM, REGION, CONTROL, SOCKETS = 3, 5, 6, 7
IMPORT_FAILED = 4


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


def serve(shim):
    """Serve until told to finish. A lone thread is the main thread, as in a script."""
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
    app = load_app()
    sockets = [SOCKETS + i for i in range(2 * settings["lanes"])]
    templates = [environ_template(listener) for listener in settings["listeners"]]
    shim.attach(
        REGION, CONTROL, sockets, app, templates, log_exception, FileWrapper, plain_file,
        client_socket,
    )
    serve(shim)
    finish()


main()
