"""Who may look at whom: what makes one stack of layers an encoder, a decoder or something between.

A mask has a row for each position that looks and a column for each that may be looked at. Nothing
else tells the models of this folder apart but for one thing more: an encoder-decoder has two
stacks, and the second looks into the first.
"""


def full(rows, columns):
    """Everybody sees everything: an encoder; and a decoder that looks into an encoder."""
    return [[True] * columns for _ in range(rows)]


def causal(length):
    """Nobody sees what comes later: a decoder, which is to guess it."""
    return [[column <= row for column in range(length)] for row in range(length)]


def prefix(length, given):
    """The first `given` see each other both ways, the rest looks back: a decoder whose prompt is
    read as an encoder reads."""
    return [[column < max(row + 1, given) for column in range(length)] for row in range(length)]


def drawn(mask, rows, columns):
    """Lines of text: ■ where the row sees the column, · where it does not."""
    lines = ["   " + " ".join(columns)]
    for label, sees in zip(rows, mask, strict=True):
        lines.append(f"{label}  {' '.join('■' if seen else '·' for seen in sees)}")
    return lines


def panels():
    """(title, mask, rows, columns) of each model; ‹ opens a name, › closes it, _ is a blank.

    All but the first turn "lea" round. In the third the columns are those of the encoder, then
    those of the decoder itself: first cross-attention, then a mask as a decoder has it.
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
