"""Whether a chat template takes a message's content for a string or for a list of parts, as vLLM tells it: by whether
the template loops over the content of a message."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes

from gateway.prompts.conversation import ContentFormat


def content_format(template: nodes.Template) -> ContentFormat:
    messages = _aliases(template, "messages")
    turns = {
        loop.target.name
        for loop in template.find_all(nodes.For)
        if isinstance(loop.target, nodes.Name) and any(_is(loop.iter, name) for name in messages)
    }
    return "openai" if any(True for _ in _content_loops(template, turns)) else "string"


def _content_loops(template: nodes.Template, turns: set[str]) -> Iterator[nodes.For]:
    in_macros: dict[nodes.For, set[str]] = {}
    for macro in template.find_all(nodes.Macro):
        given_content = _content_parameters(template, macro, turns)
        for loop in macro.find_all(nodes.For):
            in_macros[loop] = given_content or in_macros.get(loop, set())
    for loop in template.find_all(nodes.For):
        over = loop.iter
        plain = over.name if isinstance(over, nodes.Name) else ""
        names = in_macros.get(loop, {"content"})
        if plain in names or any(_is(over, turn, "content") for turn in turns):
            yield loop


def _content_parameters(template: nodes.Template, macro: nodes.Macro, turns: set[str]) -> set[str]:
    """Parameters of the macro that some call gives a message's content."""
    names = [argument.name for argument in macro.args]
    found = set()
    for call in template.find_all(nodes.Call):
        if not (isinstance(call.node, nodes.Name) and call.node.name == macro.name):
            continue
        given = [*zip(names, call.args, strict=False), *((k.key, k.value) for k in call.kwargs if k.key in names)]
        found |= {name for name, value in given if any(_is(value, turn, "content") for turn in turns)}
    return found


def _aliases(template: nodes.Template, name: str) -> set[str]:
    """`name`, and the variables that it, or a part of it, is assigned to."""
    found, new = {name}, [name]
    while new:
        source = new.pop()
        for assign in template.find_all(nodes.Assign):
            target = assign.target
            if isinstance(target, nodes.Name) and target.name not in found and _is(assign.node, source):
                found.add(target.name)
                new.append(target.name)
    return found


def _is(node: nodes.Node | None, variable: str, key: str | None = None) -> bool:
    """Whether the expression is the variable (or its `key`), perhaps filtered, tested or sliced."""
    if isinstance(node, nodes.Filter | nodes.Test):
        return _is(node.node, variable, key)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _is(node.node, variable, key)
    if key is None:
        return _is_name(node, variable)
    if isinstance(node, nodes.Getitem):
        return _is_name(node.node, variable) and isinstance(node.arg, nodes.Const) and node.arg.value == key
    return isinstance(node, nodes.Getattr) and node.attr == key and _is_name(node.node, variable)


def _is_name(node: nodes.Node | None, variable: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == variable
