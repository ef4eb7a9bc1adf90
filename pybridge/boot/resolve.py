"""Finds the WSGI callable that the user named.

    load(spec, chdir)     the callable, or AppError
    format_failure(exc)   what the log says about an exception that load raised

APP is one of

    module                      the first callable of NAMES, else the result of one of FACTORIES
    module:name                 module:package.attribute
    module:factory(literals)    called once; the arguments are literals and are never evaluated
    path/file.py[:name]         the same, for a file

It runs inside the worker, on the main thread, before anything of the user's does. So it needs
nothing but the standard library of Python 3.9, and leaves only sys.path and sys.modules changed.
"""

import ast
import importlib
import importlib.util
import inspect
import os
import sys
import types

NAMES = ("application", "app", "wsgi_app")
FACTORIES = ("create_app", "make_app")
ASGI = ("scope", "receive", "send")


class AppError(Exception):
    """There is no app to serve. The text says what is wrong, where, and what to try.

    Where the user's own code raised, that exception is the __cause__.
    """

    def __init__(self, problem, hint=""):
        super().__init__(f"{problem}\nhint: {hint}" if hint else problem)


def load(spec, chdir):
    """Import what spec names, with chdir first on sys.path, and return its WSGI callable."""
    target, colon, expression = spec.partition(":")
    if not target or (colon and not expression):
        raise AppError(f"{spec!r} names no app", "write MODULE, MODULE:NAME or path/file.py:NAME")
    module = _import(target, os.path.abspath(chdir))
    app = _evaluate(module, expression, spec) if colon else _search(module, spec)
    _require_wsgi(app, spec)
    return app


def format_failure(exc):
    """The user's traceback without importlib's frames and ours, then the text; no last newline."""
    import traceback

    cause = exc.__cause__ if isinstance(exc, AppError) else exc
    if cause is None:
        return str(exc)
    _trim(cause, set())
    lines = traceback.format_exception(type(cause), cause, cause.__traceback__)
    text = "".join(lines).rstrip("\n")
    return text if cause is exc else f"{text}\n\n{exc}"


def _import(target, chdir):
    is_file = target.endswith(".py") or os.sep in target
    folders, name, path = _locate(target, chdir) if is_file else ([], target, "")
    # "python -c" leaves '' there, which would follow every later chdir of the app.
    del sys.path[: sys.path[:1] == [""]]
    sys.path[:0] = [folder for folder in [*folders, chdir] if folder not in sys.path[:1]]
    importlib.invalidate_caches()
    try:
        return _execute(name, path) if path else importlib.import_module(name)
    except BaseException as exc:
        if isinstance(exc, ModuleNotFoundError) and f"{name}.".startswith(f"{exc.name}."):
            raise AppError(*_not_found(name, exc.name, chdir)) from None
        raise _import_failed(target, exc) from exc


def _locate(target, chdir):
    """Return (folders for sys.path, module name, path or '' where the name is enough)."""
    path = os.path.join(chdir, target)
    if not os.path.isfile(path):
        hint = _did_you_mean(os.path.basename(path), _files(os.path.dirname(path)))
        if os.path.isfile(path + ".py"):
            hint = f"did you mean {target + '.py'!r}?"
        raise AppError(f"there is no file {path!r}", hint)
    folder, base = os.path.split(path)
    name = root = None
    # Inside a package the file is imported by its dotted name: its relative imports need that.
    while os.path.isfile(os.path.join(root or folder, "__init__.py")):
        root, package = os.path.split(root or folder)
        name = f"{package}.{name}" if name else f"{package}.{base[:-3]}"
    if name:
        return [folder, root], name, ""
    # A module that is already loaded keeps its name: replacing it would break whoever holds it.
    name = base[:-3]
    return [folder], f"app_{name}" if name in sys.modules else name, path


def _execute(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise AppError(f"{path!r} is not Python source", "name a .py file or a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _not_found(name, missing, chdir):
    problem = f"there is no module {missing!r} (looked in {chdir} and on sys.path)"
    parent, _, leaf = missing.rpartition(".")
    if hasattr(sys.modules.get(parent), leaf):
        return problem, f"did you mean '{parent}:{name[len(parent) + 1:]}'?"
    top = missing.partition(".")[0]
    for folder in _folders(chdir):
        below = os.path.join(chdir, folder, top)
        if os.path.isfile(f"{below}.py") or os.path.isfile(os.path.join(below, "__init__.py")):
            return problem, f"{top} is in {folder}: try --chdir {folder}"
    stems = [base[:-3] for base in _files(chdir)] + _folders(chdir)
    return problem, _did_you_mean(top, stems)


def _import_failed(target, exc):
    if isinstance(exc, AppError):
        return exc
    if isinstance(exc, SystemExit):
        guard = "what should only run as a script belongs under: if __name__ == '__main__':"
        return AppError(f"{target!r} called exit({exc.code!r}) while it was imported", guard)
    hint = ""
    if isinstance(exc, ModuleNotFoundError):
        hint = f"is {exc.name!r} installed for {sys.executable}? --python chooses another Python"
    return AppError(f"{target!r} cannot be imported: {_summary(exc)}", hint)


def _search(module, spec):
    for name in NAMES:
        if callable(getattr(module, name, None)):
            return getattr(module, name)
    for name in FACTORIES:
        if callable(getattr(module, name, None)):
            return _call(getattr(module, name), (), {}, f"{spec}:{name}")
    looked = ", ".join(NAMES + FACTORIES)
    present = [name for name in NAMES + FACTORIES if hasattr(module, name)]
    if present:
        found = f"{present[0]} is not callable: it is {_kind(getattr(module, present[0]))}"
    else:
        found = "it has none of " + looked
    # An instance that can be called, or a name close to ours, is very likely what was meant.
    likely = [n for n, v in vars(module).items() if callable(v) and not isinstance(v, type)]
    instances = [n for n in likely if not inspect.isroutine(getattr(module, n))]
    near = [match for name in NAMES for match in _near(name, likely)]
    hint = f"did you mean '{spec}:{(instances + near)[0]}'?" if instances + near else ""
    raise AppError(f"{spec!r} has no app: {found}", hint or f"name it: '{spec}:NAME'")


def _evaluate(module, expression, spec):
    try:
        node = ast.parse(expression, mode="eval").body
        call = isinstance(node, ast.Call)
        names = _dotted(node.func if call else node)
        args = [ast.literal_eval(arg) for arg in node.args] if call else ()
        kwargs = {arg.arg: ast.literal_eval(arg.value) for arg in node.keywords} if call else {}
        if None in kwargs:
            raise ValueError("** is not a literal")
    except (SyntaxError, ValueError, TypeError) as exc:
        hint = "write NAME, NAME.NAME or FACTORY(LITERALS), such as create_app('x', debug=False)"
        raise AppError(f"cannot read {expression!r} in {spec!r}", hint) from None
    value, where = module, spec.partition(":")[0]
    for name in names:
        value = _attribute(value, name, where)
        where += ("." if value is not module and ":" in where else ":") + name
    return _call(value, args, kwargs, where) if call else value


def _dotted(node):
    names = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise ValueError("not a name")
    return [node.id, *names]


def _attribute(owner, name, where):
    try:
        return getattr(owner, name)
    except AttributeError:
        pass
    except BaseException as exc:
        raise AppError(f"{name!r} of {where!r} cannot be read: {_summary(exc)}") from exc
    hint = _did_you_mean(name, dir(owner))
    if any(f"{name}.py" in _files(folder) for folder in getattr(owner, "__path__", ())):
        hint = f"{name} is a module: write '{where}.{name}:NAME'"
    raise AppError(f"{where!r} has no {name!r}", hint)


def _call(factory, args, kwargs, where):
    if not callable(factory):
        raise AppError(f"{where!r} is not callable: it is {_kind(factory)}")
    if not _accepts(factory, *args, **kwargs):
        takes = inspect.signature(factory)
        raise AppError(f"{where!r} takes {takes}", f"name its arguments: '{where}(...)'")
    try:
        return factory(*args, **kwargs)
    except BaseException as exc:
        raise AppError(f"the factory {where!r} raised {_summary(exc)}") from exc


def _require_wsgi(app, spec):
    if not callable(app):
        raise AppError(f"{spec!r} is not callable: it is {_kind(app)}")
    if _is_asgi(app):
        wrap = "wrap it with a2wsgi.ASGIMiddleware"
        raise AppError(f"{spec!r}: this is ASGI; gophersnake serves WSGI; {wrap}")
    if _accepts(app, None, None):
        return
    problem = f"{spec!r} is not a WSGI app: it takes {inspect.signature(app)}"
    # The usual cause: a factory without its parentheses.
    called = f"did you mean '{spec}()'?" if ":" in spec and _accepts(app) else ""
    raise AppError(problem, called or "a WSGI app is called as app(environ, start_response)")


def _is_asgi(app):
    if any(map(inspect.iscoroutinefunction, (app, type(app).__call__))):
        return True
    try:
        return tuple(inspect.signature(app).parameters) == ASGI
    except (TypeError, ValueError):
        return False


def _accepts(function, *args, **kwargs):
    """Whether function can be called like this; True where it does not say (C code)."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _trim(exc, seen):
    """Drop importlib's frames, ours and those above ours, from exc and from what led to it."""
    if exc is None or id(exc) in seen:
        return
    seen.add(id(exc))
    frames = []
    entry = exc.__traceback__
    while entry is not None:
        if entry.tb_frame.f_globals is globals():
            frames.clear()
        elif not _of_importlib(entry.tb_frame):
            frames.append(entry)
        entry = entry.tb_next
    kept = None
    for entry in reversed(frames):
        kept = types.TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    exc.__traceback__ = kept
    _trim(exc.__cause__, seen)
    _trim(exc.__context__, seen)


def _of_importlib(frame):
    file = frame.f_code.co_filename
    return file.startswith("<frozen importlib") or file == importlib.__file__


def _summary(exc):
    text = str(exc).partition("\n")[0]
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _kind(value):
    return "None" if value is None else f"of type {type(value).__name__}"


def _files(folder):
    entries = os.listdir(folder) if os.path.isdir(folder) else []
    return [base for base in entries if base.endswith(".py")]


def _folders(folder):
    return [entry.name for entry in os.scandir(folder) if entry.is_dir()]


def _near(name, names):
    import difflib

    return difflib.get_close_matches(name, names, cutoff=0.7)


def _did_you_mean(name, names):
    near = _near(name, names)
    return f"did you mean {near[0]!r}?" if near else ""
