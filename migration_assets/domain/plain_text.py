"""Makes texts with foreign names in them safe to show in a terminal, a chat, an e-mail or a page. Pure.

Anyone who can create an object in a database chooses its name. The name could contain control characters that hide a
finding in a terminal, or a mention and a link that a chat would act on.
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
