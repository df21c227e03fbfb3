"""Makes texts with foreign names in them safe to show in a terminal, a chat, an e-mail or a page. Pure.

Everybody who may create something in a database may call it as he likes: so that a terminal clears a finding away, or
that a chat calls everybody to a link of his.
"""

import re

# Characters that move a terminal's cursor, end a line or reverse the text direction; and the same without line ends.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
_WITHIN_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
# Mentions and commands of chats, links in chats and e-mails, and the part that makes a text an address.
_OF_CHATS = {"<": "\u2039", ">": "\u203a", "@": "(at)", "](": "] (", "://": ": //"}
_MARKUP = re.compile("|".join(map(re.escape, _OF_CHATS)))


def plain(text: str) -> str:
    """Remove the characters that a terminal acts on; line ends stay."""
    return _WITHIN_LINES.sub("", text)


def for_chat(text: str) -> str:
    """Also defuse what a chat, an e-mail or a page would turn into a mention, a link or a command."""
    return _MARKUP.sub(lambda found: _OF_CHATS[found.group()], plain(text))
