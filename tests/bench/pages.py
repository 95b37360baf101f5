"""What a page of results says, whatever the widths of its columns."""

import re


def unpadded(text):
    return re.sub(" +", " ", text)
