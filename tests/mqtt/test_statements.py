"""The statements that brokers get wrong, one script each: `statements/<statement>.txt`, for each version it applies to."""

import pathlib

import pytest

from support import script

SCRIPTS = script.load(pathlib.Path(__file__).parent / "statements")


@pytest.mark.parametrize(
    ("version", "lines"),
    [each[2:] for each in SCRIPTS],
    ids=[f"{statement}-{version}-{title.replace(' ', '-')}" for statement, title, version, _ in SCRIPTS],
)
def test_statement(broker, version, lines):
    script.Stage(broker, version).play(lines)
