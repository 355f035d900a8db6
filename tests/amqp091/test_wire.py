"""Byte by byte: cases/*.json, each naming the statement of the specification it shows."""

import pathlib

import pytest

from support.raw import load, play

CASES = load(pathlib.Path(__file__).parent / "cases")


@pytest.mark.parametrize("case, preludes", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_wire(broker, case, preludes):
    play(broker, "amqp", case, preludes)
