"""Write the types of the server's requests and answers, for the page's JavaScript.

    python dev/make_api_types.py

The source is the application's OpenAPI document. A test fails if the committed file differs.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers.server import serving

TARGET = Path(__file__).parent.parent / "src" / "kamon" / "web" / "api_types.d.ts"
HEAD = "// dev/make_api_types.py makes this file from the server's OpenAPI document: do not edit.\n"
PREFIX = "/api/v1"
PLAIN = {"integer": "number", "number": "number", "string": "string", "boolean": "boolean"}
Schema = dict[str, Any]


def main() -> None:
    TARGET.write_text(made(document()), encoding="utf-8")
    print(f"wrote {TARGET}")


def document() -> Schema:
    """Return the OpenAPI document of `kamon serve`."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        return dict(server.json("GET", "/openapi.json"))


def made(document: Schema) -> str:
    """Return the text of the file: an interface per schema, and `Operations` with all requests."""
    operations = [
        f"  {json.dumps(f'{method.upper()} {path.removeprefix(PREFIX)}')}: {operation(details)};"
        for path, methods in document["paths"].items()
        if path.startswith(PREFIX)
        for method, details in methods.items()
    ]
    schemas = document["components"]["schemas"]
    interfaces = [f"export interface {name} {type_of(schemas[name])}" for name in sorted(schemas)]
    index = "export interface Operations {\n" + "\n".join(operations) + "\n}"
    return "\n".join([HEAD, index, *(f"\n{each}" for each in interfaces)]) + "\n"


def operation(details: Schema) -> str:
    """Return the types of a request's body and answer: undefined and null for nothing."""
    successes = [each for status, each in details["responses"].items() if status[0] == "2"]
    body = content(details.get("requestBody", {})) or "undefined"
    return f"{{ body: {body}; answer: {content(successes[0]) or 'null'} }}"


def content(message: Schema) -> str | None:
    """Return the type of the JSON in a message, or None without JSON."""
    found = message.get("content", {}).get("application/json")
    return found and type_of(found["schema"])


def type_of(schema: Schema) -> str:
    """Return the TypeScript for a JSON schema. It knows the kinds that the application uses."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(map(json.dumps, schema["enum"]))
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(map(type_of, choices))
    if schema["type"] == "array":
        return array(schema)
    if schema["type"] == "object":
        return object_type(schema)
    return "null" if schema["type"] == "null" else PLAIN[schema["type"]]


def array(schema: Schema) -> str:
    if "prefixItems" in schema:
        return "[" + ", ".join(map(type_of, schema["prefixItems"])) + "]"
    item = type_of(schema["items"])
    return f"({item})[]" if "|" in item else f"{item}[]"


def object_type(schema: Schema) -> str:
    if "properties" not in schema:
        value = schema.get("additionalProperties", True)
        return f"Record<string, {'unknown' if value is True else type_of(value)}>"
    required = schema.get("required", [])
    fields = [
        f"  {name}{'' if name in required else '?'}: {type_of(field)};"
        for name, field in schema["properties"].items()
    ]
    return "{\n" + "\n".join(fields) + "\n}"


if __name__ == "__main__":
    main()
