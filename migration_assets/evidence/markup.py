"""HTML and SVG as a tree of text: whatever is not markup already is escaped, so that no value can become any."""

from html import escape


class Markup(str):
    """Text that is HTML; made by `element` and `joined` alone."""

    __slots__ = ()


Child = str | Markup | None
_VOID = frozenset({"br", "meta", "hr"})


def element(name: str, /, *children: Child, **attributes: object) -> Markup:
    """`<name attributes>children</name>`; None is left out, `class_` is `class`, `stroke_width` is `stroke-width`."""
    written = "".join(
        f' {attribute.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for attribute, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """One after the other, escaped where they are not markup."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(child) for child in children if child is not None)
    )


def named(approved_by: str, done_by: str) -> Markup:
    """The name that somebody typed, and below it what the machine knew of who it was."""
    return joined(approved_by, element("p", f"by {done_by}", class_="hint place") if done_by else None)


def page(title: str, style: str, head: Markup, *body: Markup) -> str:
    """A whole document; its style is ours and has no value in it."""
    start = element(
        "head", Markup('<meta charset="utf-8">'), head, element("title", title), Markup(f"<style>{style}</style>")
    )
    return f'<!DOCTYPE html>\n<html lang="en">{start}{element("body", *body)}</html>\n'
