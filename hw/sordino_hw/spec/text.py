"""Foreign text, made fit to be shown."""

__all__ = ["printable"]


def printable(text: object, limit: int = 200) -> str:
    """`text` on one line without anything that a terminal would act on; of more than `limit` characters, its start and end.

    Control and formatting characters (escape sequences, line breaks, marks that change the direction of writing), unusual
    spaces, surrogates and characters that Unicode does not assign are shown as Python escapes them.
    """
    text = str(text)
    if len(text) > limit:
        half = (limit - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
