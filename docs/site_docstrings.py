"""Docstrings as Markdown, for the site: a section such as `Parameters` and its entries become a title and a list."""

import re

import griffe

RULE = re.compile(r"-{3,}")


def to_markdown(text: str) -> str:
    """The docstring with every underlined section as a bold title and a list of its entries.

    The entries end where after a blank line no entry follows, `name : meaning`.
    """
    lines, out, entries = text.split("\n"), [], False
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and RULE.fullmatch(lines[i + 1]):
            out += ["", f"**{line}**", ""]
            entries = True
        elif RULE.fullmatch(line):
            continue
        elif not line:
            out.append("")
        elif entries and not lines[i - 1] and not line.startswith(" ") and " : " not in line:
            out.append(line)
            entries = False
        elif not entries or line.startswith(" "):
            out.append(line)
        else:
            name, colon, meaning = line.partition(" : ")
            out += ["", f"- `{name}`{': ' if colon else ''}{meaning}"]  # the blank line ends what stands in the entry before
    return "\n".join(out)


class MarkdownDocstrings(griffe.Extension):
    """Applies `to_markdown` to everything that is documented."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
