"""Elements of SVG. What goes into one is escaped unless it is an element."""

from markupsafe import Markup, escape

Attribute = str | float | None


def tag(name: str, *children: object, **attributes: Attribute) -> Markup:
    """An element. Of attributes, a final underline is dropped, others are hyphens; None leaves one out."""
    given = {key: value for key, value in attributes.items() if value is not None}
    words = [Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(given[key])) for key in given]
    inside = Markup().join(escape(child) for child in children)
    return Markup("<{}{}>{}</{}>").format(Markup(name), Markup().join(words), inside, Markup(name))  # noqa: S704


def drawing(width: float, height: float, label: str, *children: object) -> Markup:
    """A drawing, as wide as there is room for it, with what it shows in words."""
    box = f"0 0 {_number(width)} {_number(height)}"
    return tag("svg", *children, viewBox=box, width=width, height=height, role="img", aria_label=label)


def text(x: float, y: float, words: object, class_: str | None = None, anchor: str | None = None) -> Markup:
    """A text."""
    return tag("text", words, x=x, y=y, class_=class_, text_anchor=anchor)


def rectangle(  # noqa: PLR0917 (the four numbers are what everybody expects)
    x: float, y: float, width: float, height: float, class_: str, title: str | None = None
) -> Markup:
    """A rectangle, with the words that appear over it."""
    inside = () if title is None else (tag("title", title),)
    return tag("rect", *inside, x=x, y=y, width=width, height=height, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _number(value: Attribute) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
