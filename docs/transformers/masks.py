"""Print the masks that make a stack of layers an encoder, a decoder or something in between.

A mask has a row for each position that looks and a column for each position it may look at. Apart
from the mask, the models in this folder are the same. Only the encoder-decoder has two stacks, and
the second looks into the first.
"""


def full(rows, columns):
    """Let every position see every other: an encoder, or a decoder that looks into an encoder."""
    return [[True] * columns for _ in range(rows)]


def causal(length):
    """Hide later positions: a decoder, which has to guess them."""
    return [[column <= row for column in range(length)] for row in range(length)]


def prefix(length, given):
    """Let the first `given` positions see each other, and the rest look back: a decoder with an
    encoder for its prompt."""
    return [[column < max(row + 1, given) for column in range(length)] for row in range(length)]


def drawn(mask, rows, columns):
    """Return lines of text: ■ if the row sees the column, · if not."""
    lines = ["   " + " ".join(columns)]
    for label, sees in zip(rows, mask, strict=True):
        lines.append(f"{label}  {' '.join('■' if seen else '·' for seen in sees)}")
    return lines


def panels():
    """Return (title, mask, rows, columns) of each model. ‹ opens a name, › closes it, _ is a blank.

    All but the first reverse "lea". In the third, the encoder's columns come first and then the
    decoder's own: cross-attention, then a causal mask.
    """
    both = [a + b for a, b in zip(full(4, 5), causal(4), strict=True)]
    return [
        ("encoder", full(5, 5), "‹l_a›", "‹l_a›"),
        ("decoder", causal(8), "‹lea›ael", "‹lea›ael"),
        ("encoder-decoder", both, "‹ael", "‹lea›‹ael"),
        ("prefix", prefix(8, 5), "‹lea›ael", "‹lea›ael"),
    ]


def main():
    print("rows look at columns: ■ sees, · does not\n")
    for left, right in (panels()[:2], panels()[2:]):
        blocks = [[title, *drawn(*rest)] for title, *rest in (left, right)]
        height = max(map(len, blocks)) + 1
        one, other = ([*block, *[""] * (height - len(block))] for block in blocks)
        for a, b in zip(one, other, strict=True):
            print(f"{a:26}{b}".rstrip())


if __name__ == "__main__":
    main()
