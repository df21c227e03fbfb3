"""A server that comes back as another one, or earlier than it was; and answers that get lost."""
