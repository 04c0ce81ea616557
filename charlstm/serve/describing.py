"""The API's description as a page that needs no script."""

from __future__ import annotations

import json
from typing import Any

from ..pages import block, escaped, page, table

_STYLE = "h2 code { font-size: 1.1rem; } td code { white-space: pre-wrap; }"


def description(schema: dict[str, Any]) -> str:
    """A page of HTML that tells what an OpenAPI description says."""
    components = schema.get("components", {}).get("schemas", {})
    info = schema["info"]
    body = [
        f"<h1>{escaped(info['title'])} {escaped(info['version'])}</h1>\n<p>{escaped(info['description'])}</p>\n",
        '<p>For programs: <a href="openapi.json">/openapi.json</a>.</p>\n',
    ]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            body.append(f"<h2><code>{escaped(method.upper())} {escaped(path)}</code></h2>\n")
            body.append(f"<p>{escaped(operation.get('description', ''))}</p>\n")
            content = operation.get("requestBody", {}).get("content", {})
            body += [_fields(part["schema"], components) for part in content.values()]
            answers = operation.get("responses", {}).items()
            body.append(
                "<h3>Answers</h3>\n" + table((status, what["description"]) for status, what in answers)
            )
    return page(f"{info['title']}: API", "".join(body), _STYLE)


def _fields(schema: dict[str, Any], components: dict[str, Any]) -> str:
    named = components[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema
    rows = [
        (name, f"{field.get('description', '')} [{_kind(field)}{_default(field)}]")
        for name, field in named.get("properties", {}).items()
    ]
    examples = "".join(block(json.dumps(example)) for example in named.get("examples", ()))
    return "<h3>Fields</h3>\n" + table(rows) + (f"<h3>Example</h3>\n{examples}" if examples else "")


def _kind(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        kinds = dict.fromkeys(_kind(part) for part in field["anyOf"] if part.get("type") != "null")
        return " or ".join(kinds)
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return f"list of {_kind(field['items'])}"
    return str(field.get("type") or field.get("const") or "object")


def _default(field: dict[str, Any]) -> str:
    return f", default {json.dumps(field['default'])}" if field.get("default") is not None else ""
