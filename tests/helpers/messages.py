"""What messages say, apart from how they say it."""
import re


def facts(*words):
    """A pattern of all these words in any order, for `match=` and `re.search`."""
    return '(?s)' + ''.join(f'(?=.*{re.escape(str(word))})' for word in words)
