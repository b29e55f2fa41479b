"""The types of requests and answers that the page's JavaScript is checked with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))

import make_api_types

pytestmark = pytest.mark.extra
pytest.importorskip("uvicorn", reason="the server is in kamon[web]")


def test_the_types_are_those_of_the_servers_document() -> None:
    made = make_api_types.made(make_api_types.document())
    hint = "run `python dev/make_api_types.py`"
    assert make_api_types.TARGET.read_text(encoding="utf-8") == made, hint


def test_a_type_says_what_a_schema_allows() -> None:
    texts = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}
    pair = {"type": "array", "prefixItems": [{"type": "integer"}, {"$ref": "#/components/X"}]}
    schema = {"type": "object", "properties": {"a": texts, "b": pair}, "required": ["b"]}
    expected = "{\n  a?: (string | null)[];\n  b: [number, X];\n}"
    assert make_api_types.type_of(schema) == expected
    assert make_api_types.type_of({"type": "string", "enum": ["x", "y"]}) == '"x" | "y"'
    numbers = {"type": "object", "additionalProperties": {"type": "number"}}
    assert make_api_types.type_of(numbers) == "Record<string, number>"
