"""Help pages, the version, and one line for an option that is not understood."""

from typing import ClassVar

import pytest
from absl import flags
from ml_collections import config_flags

from depth_anything_jax.utils import command_line
from depth_anything_jax.utils.version import __version__

DOC = """Predicts things.

    python -m things photo.jpg --to=DIR
    python -m things --help
"""


@pytest.fixture
def program(monkeypatch):
    """Arguments -> what the program was called with; its options vanish after the test."""
    before = set(flags.FLAGS)
    to = flags.DEFINE_string("to", None, "folder for the results")
    many = flags.DEFINE_integer("at_a_time", 2, "pictures of one shape")
    flags.DEFINE_alias("at-a-time", "at_a_time")
    dtype = flags.DEFINE_enum("computes", "auto", ["auto", "float32"], "computes in")
    smooth = flags.DEFINE_boolean("smoothly", True, "keep the scale")
    views = flags.DEFINE_multi_string("view", [], "score it so")
    config = config_flags.DEFINE_config_file("conf", None, "configs/NAME.py", lock_config=True)
    calls = []

    def run(*arguments, positional=True):
        calls.clear()
        monkeypatch.setattr("sys.argv", ["things", *arguments])
        groups = {"Output": [to, smooth], "Model": [many, dtype, views, config]}
        with pytest.raises(SystemExit) as end:
            command_line.start(
                lambda argv: calls.append((argv[1:], to.value, many.value)),
                doc=DOC,
                groups=groups,
                needs=[to],
                positional=positional,
            )
        return end.value.code, list(calls)

    yield run
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def test_start_runs_the_program(program):
    code, calls = program("a.jpg", "--to=x", "--at-a-time", "3")
    assert not code
    assert calls == [(["a.jpg"], "x", 3)]


def test_an_argument_too_many_is_one_line(program):
    code, calls = program("a.jpg", "--to=x", positional=False)
    assert calls == []
    assert code.startswith("unexpected arguments: a.jpg")


@pytest.mark.parametrize("flag", command_line.HELP)
def test_help_names_each_option_once(program, capsys, flag):
    assert program(flag) == (0, [])
    shown = capsys.readouterr().out
    assert shown.startswith(DOC.strip())
    assert shown.index("\nOutput:") < shown.index("  --to=TEXT") < shown.index("\nModel:")
    for entry in ("--at-a-time=N", "--computes=auto|float32", "--[no]smoothly", "--view=TEXT"):
        assert shown.count(entry) == 1
    assert "--at_a_time" not in shown
    assert "pictures of one shape (default: 2)" in shown
    assert max(map(len, shown.splitlines())) <= command_line.WIDTH


def test_no_arguments_say_what_is_needed(program):
    code, calls = program()
    assert calls == []
    assert code.splitlines() == [
        "Predicts things.",
        "  python -m things photo.jpg --to=DIR",
        "needs --to (folder for the results); --help lists all options",
    ]


def test_version_is_the_package(program, capsys):
    assert program("--version") == (0, [])
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("given", [["--version=v2"], ["a.jpg", "--version", "v2"]])
def test_version_of_a_model_has_another_name(program, given):
    code, calls = program(*given, "--to=x")
    assert calls == []
    assert code == "Unknown command line flag 'version'\n--help lists the options"
    flags.DEFINE_string("model_version", None, "of the programs that load weights")
    code, calls = program(*given, "--to=x")
    assert calls == []
    assert "--model-version" in code


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--too=x", "Did you mean: to ?"),
        ("--computes=int8", "--computes=int8: value should be one of <auto|float32>"),
        ("--at_a_time=many", "--at_a_time=many"),
        ("--conf.batch_sise=3", "--conf.batch_sise=3: no field 'batch_sise'; did you mean"),
        ("--conf.loss.trm=3", "--conf.loss.trm=3: no field 'trm'; did you mean 'trim'?"),
        ("--conf.batch_size=abc", "--conf.batch_size=abc"),
    ],
)
def test_a_mistyped_option_is_one_line(program, given, words):
    code, calls = program("--conf=configs/student.py:demo", given, "--to=x")
    assert calls == []
    assert words in code
    assert "Traceback" not in code and len(code.splitlines()) <= 2


def test_a_config_that_refuses_is_one_line(program):
    code, _ = program("--conf=configs/student.py:nothing", "--to=x")
    assert "['nothing'] unknown; choose vits" in code
    assert "Traceback" not in code and len(code.splitlines()) <= 2


class Undecided(ValueError):
    choices: ClassVar = {"--at-a-time=1": "a slow machine", "--at-a-time=8": "a fast one"}


def test_an_error_with_choices_names_the_commands(program, monkeypatch):
    assert command_line.told(ValueError("x: no")) == "ValueError: x: no"
    monkeypatch.setattr("sys.argv", ["/usr/bin/things", "a b.jpg", "--to=x"])
    monkeypatch.setattr(command_line.sys.modules["__main__"], "__spec__", None)
    assert command_line.told(Undecided("x: how many?")).splitlines() == [
        "Undecided: x: how many?",
        "Run one of",
        "  things 'a b.jpg' --to=x --at-a-time=1",
        "      a slow machine",
        "  things 'a b.jpg' --to=x --at-a-time=8",
        "      a fast one",
    ]
    monkeypatch.setattr(Undecided, "choices", {"--elsewhere=1": "one"})
    assert command_line.told(Undecided("x: how many?")).splitlines()[1:] == [
        "Name the new folder that one of these writes",
        "  python tools/import_torch.py WEIGHTS NEW_FOLDER --elsewhere=1",
        "      one",
    ]
