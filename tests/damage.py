"""What may befall a file on disk: each makes other content of the content."""


def flipped(content, position):
    """With one bit turned."""
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "shorter than its digest": lambda content: content[:20],
    "without its last byte": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "a bit of the digest flipped": lambda content: flipped(content, 5),
    "a bit of the code flipped": lambda content: flipped(content, len(content) // 2),
    "with a byte too many": lambda content: content + b"\0",
}
