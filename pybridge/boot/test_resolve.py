"""resolve.py on a folder of small modules, in this interpreter.

Runs by `python3 -m unittest discover -s pybridge/boot` and by `python3 test_resolve.py`.
"""

import os
import shutil
import sys
import tempfile
import textwrap
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import resolve  # noqa: E402

WSGI = "def {}(environ, start_response):\n    return ['{}']\n"

MODULES = {
    "both.py": WSGI.format("app", "app") + WSGI.format("application", "application"),
    "second.py": "application = 'a name'\n" + WSGI.format("app", "app"),
    "third.py": WSGI.format("wsgi_app", "wsgi_app"),
    "factory.py": WSGI.format("inner", "made") + "def create_app():\n    return inner\n",
    "maker.py": WSGI.format("inner", "made") + "def make_app():\n    return inner\n",
    "args.py": """
        def create_app(name, debug=False, ports=()):
            def inner(environ, start_response):
                return [name, debug, ports]
            return inner
        class Holder:
            make = staticmethod(create_app)
        """,
    "callables.py": """
        class Instance:
            def __call__(self, environ, start_response):
                return ['instance']
            def method(self, environ, start_response):
                return ['method']
        class Class:
            def __init__(self, environ, start_response):
                self.said = 'class'
            def __iter__(self):
                return iter([self.said])
        instance = Instance()
        loose = lambda *args: ['loose']
        c_code = max
        """,
    "site_app.py": """
        class Framework:
            def __call__(self, environ, start_response):
                return ['site']
        site = Framework()
        """,
    "misspelt.py": WSGI.format("aplication", "x"),
    "empty.py": "",
    "number.py": "app = 7\n",
    "raises.py": "def deep():\n    raise ValueError('no database')\n\ndeep()\n",
    "imports_raises.py": "import raises\n",
    "importlib_raises.py": "import importlib\nimportlib.import_module('raises')\n",
    "chained.py": """
        try:
            import raises
        except ValueError as exc:
            raise RuntimeError('x') from exc
        """,
    "needs.py": "import a_package_nobody_has\n",
    "broken.py": "def app(:\n",
    "exits.py": "import sys\nsys.exit(3)\n",
    "bad_factory.py": """
        def create_app():
            raise KeyError('SECRET_KEY')
        def none():
            return None
        """,
    "asgi.py": """
        async def app(scope, receive, send):
            pass
        class Instance:
            async def __call__(self, scope, receive, send):
                pass
        instance = Instance()
        def plain(scope, receive, send):
            pass
        """,
    "pkg/__init__.py": "",
    "pkg/wsgi.py": "from . import part\n" + WSGI.format("application", "pkg"),
    "pkg/part.py": "",
    "nested/inside.py": WSGI.format("app", "inside"),
    "files/solo.py": "import neighbour\n" + WSGI.format("app", "solo"),
    "files/neighbour.py": "",
    "files/my-app.py": WSGI.format("app", "dashed"),
    "files/unittest.py": WSGI.format("app", "shadow"),
}


class Resolve(unittest.TestCase):
    def setUp(self):
        self.folder = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        for name, source in MODULES.items():
            path = os.path.join(self.folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(textwrap.dedent(source))
        path, modules = list(sys.path), set(sys.modules)
        self.addCleanup(lambda: [sys.modules.pop(name) for name in set(sys.modules) - modules])
        self.addCleanup(sys.path.__setitem__, slice(None), path)

    def says(self, spec):
        """What the loaded app answers."""
        return list(resolve.load(spec, self.folder)({}, None))

    def fails(self, spec, *parts):
        """load must raise an AppError that has every part; returns the whole text of the log."""
        with self.assertRaises(resolve.AppError) as caught:
            resolve.load(spec, self.folder)
        for part in parts:
            self.assertIn(part, str(caught.exception), f"spec {spec!r}")
        return resolve.format_failure(caught.exception)

    def test_default_names_in_order(self):
        self.assertEqual(self.says("both"), ["application"])
        self.assertEqual(self.says("second"), ["app"])
        self.assertEqual(self.says("third"), ["wsgi_app"])
        self.assertEqual(self.says("factory"), ["made"])
        self.assertEqual(self.says("maker"), ["made"])

    def test_named(self):
        self.assertEqual(self.says("both:app"), ["app"])
        self.assertEqual(self.says("pkg.wsgi"), ["pkg"])
        self.assertEqual(self.says("pkg.wsgi:application"), ["pkg"])

    def test_every_kind_of_callable(self):
        self.assertEqual(self.says("callables:instance"), ["instance"])
        self.assertEqual(self.says("callables:instance.method"), ["method"])
        self.assertEqual(self.says("callables:Class"), ["class"])
        self.assertEqual(self.says("callables:loose"), ["loose"])
        self.assertIs(resolve.load("callables:c_code", self.folder), max)

    def test_factory_arguments_are_literals(self):
        self.assertEqual(self.says("args:create_app('a:b')"), ["a:b", False, ()])
        self.assertEqual(self.says("args:create_app('x', debug=True)"), ["x", True, ()])
        self.assertEqual(self.says("args:Holder.make('x', ports=[1, -2])"), ["x", False, [1, -2]])
        for expression in ("create_app(open('f'))", "create_app(*[1])", "create_app(**{})",
                           "create_app('x')()", "create_app('x'", "[create_app]", "1 + 1"):
            self.fails(f"args:{expression}", f"cannot read {expression!r}", "hint: write NAME")

    def test_file(self):
        self.assertEqual(self.says("files/solo.py"), ["solo"])
        self.assertEqual(sys.path[:2], [os.path.join(self.folder, "files"), self.folder])
        self.assertEqual(sys.modules["solo"].__name__, "solo")
        self.assertEqual(self.says("files/solo.py:app"), ["solo"])
        self.assertEqual(self.says(os.path.join(self.folder, "files/my-app.py")), ["dashed"])
        self.assertEqual(self.says("both.py:app"), ["app"])

    def test_file_in_a_package_is_imported_as_part_of_it(self):
        self.assertEqual(self.says("pkg/wsgi.py"), ["pkg"])
        self.assertIn("pkg.wsgi", sys.modules)

    def test_file_does_not_replace_a_loaded_module(self):
        self.assertEqual(self.says("files/unittest.py"), ["shadow"])
        self.assertIs(sys.modules["unittest"], unittest)

    def test_chdir_is_first_on_the_path(self):
        sys.path.insert(0, "")
        self.says("both")
        self.assertEqual(sys.path[0], self.folder)
        self.assertNotIn("", sys.path)

    def test_no_spec(self):
        self.fails("", "names no app")
        self.fails("both:", "names no app")
        self.fails(":app", "names no app")

    def test_no_such_module(self):
        text = self.fails("boht", "there is no module 'boht'", "did you mean 'both'?")
        self.assertNotIn("Traceback", text)
        self.fails("both.application", "did you mean 'both:application'?")
        self.fails("callables.instance.method", "did you mean 'callables:instance.method'?")
        self.fails("pkg.wsig", "there is no module 'pkg.wsig'")
        self.fails("inside", "try --chdir nested")

    def test_no_such_file(self):
        self.fails("files/sol.py", "there is no file", "did you mean 'solo.py'?")
        self.fails("files/solo", "did you mean 'files/solo.py'?")
        self.fails("nowhere/solo.py", "there is no file")

    def test_no_such_name(self):
        self.fails("both:aplication", "'both' has no 'aplication'", "did you mean 'application'?")
        self.fails("callables:instance.metod", "'callables:instance' has no 'metod'", "'method'")
        self.fails("pkg:wsgi", "'pkg' has no 'wsgi'", "write 'pkg.wsgi:NAME'")

    def test_no_default_name(self):
        self.fails("empty", "has none of application, app, wsgi_app, create_app, make_app")
        self.fails("misspelt", "did you mean 'misspelt:aplication'?")
        self.fails("site_app", "did you mean 'site_app:site'?")
        self.fails("number", "app is not callable: it is of type int")

    def test_not_an_app(self):
        self.fails("number:app", "not callable: it is of type int")
        self.fails("bad_factory:none()", "not callable: it is None")
        self.fails("factory:create_app", "it takes ()", "did you mean 'factory:create_app()'?")
        self.fails("args", "takes (name, debug=False, ports=())")
        self.fails("args:create_app(1, 2, 3, 4)", "takes (name, debug=False, ports=())")

    def test_asgi(self):
        for spec in ("asgi", "asgi:app", "asgi:instance", "asgi:plain"):
            self.fails(spec, "this is ASGI; gophersnake serves WSGI", "a2wsgi.ASGIMiddleware")

    def test_import_that_fails_shows_the_users_frames_only(self):
        for spec in ("raises", "imports_raises", "importlib_raises", "files/../raises.py"):
            text = self.fails(spec, "cannot be imported: ValueError: no database")
            self.assertTrue(text.startswith("Traceback (most recent call last):\n"), text)
            self.assertIn("raises.py\", line 4, in <module>", text)
            self.assertIn("line 2, in deep\n    raise ValueError('no database')\n", text)
            for ours in ("resolve.py", "importlib", "frozen"):
                self.assertNotIn(f"{ours}\"", text)
                self.assertNotIn(f"File \"<{ours}", text)

    def test_chained_exceptions_are_trimmed_too(self):
        text = self.fails("chained", "RuntimeError: x")
        self.assertIn("direct cause", text)
        self.assertNotIn("frozen", text)
        self.assertNotIn("resolve.py", text)

    def test_missing_dependency_is_not_a_missing_module(self):
        text = self.fails("needs", "No module named 'a_package_nobody_has'", "installed for")
        self.assertIn("needs.py\", line 1", text)

    def test_syntax_error(self):
        text = self.fails("broken", "'broken' cannot be imported: SyntaxError")
        self.assertIn("broken.py\", line 1", text)
        self.assertNotIn("Traceback", text)

    def test_exit_at_import(self):
        self.fails("exits", "called exit(3) while it was imported", "__main__")

    def test_factory_that_raises(self):
        text = self.fails("bad_factory", "create_app' raised KeyError: 'SECRET_KEY'")
        self.assertIn("in create_app", text)
        self.assertNotIn("resolve.py", text)

    def test_format_failure_of_another_exception(self):
        def caller():
            try:
                raise ZeroDivisionError("by hand")
            except ZeroDivisionError as exc:
                return resolve.format_failure(exc)
        self.assertIn("ZeroDivisionError: by hand", caller())


if __name__ == "__main__":
    unittest.main()
