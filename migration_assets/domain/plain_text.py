"""Texts with names and words in them that others have chosen, made fit for where they are shown. Pure.

Everybody who may create something in a database may call it as he likes: so that a terminal clears a finding away, or
that a chat calls everybody to a link of his.
"""

import re

# What moves a terminal's cursor, ends a line or reverses a text's direction; and the same without ends of lines.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
_WITHIN_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
# Calls and commands of chats, links of theirs and of e-mail, and what makes an address one.
_OF_CHATS = {"<": "\u2039", ">": "\u203a", "@": "(at)", "](": "] (", "://": ": //"}
_MARKUP = re.compile("|".join(map(re.escape, _OF_CHATS)))


def plain(text: str) -> str:
    """Without what a terminal acts upon; lines stay lines."""
    return _WITHIN_LINES.sub("", text)


def for_chat(text: str) -> str:
    """Without what a chat, an e-mail or a page makes a call, a link or a command of, either."""
    return _MARKUP.sub(lambda found: _OF_CHATS[found.group()], plain(text))
