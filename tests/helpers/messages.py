"""Match the facts in a message, independent of its wording."""
import re


def facts(*words):
    """A regular expression for all these words in any order, for `match=` and `re.search`."""
    return '(?s)' + ''.join(f'(?=.*{re.escape(str(word))})' for word in words)
