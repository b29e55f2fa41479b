"""What is written in a picture."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from kamon import plotting


def texts(figure: Any) -> list[str]:
    """All that is written in a picture."""
    root = ElementTree.fromstring(plotting.render(figure, "svg"))
    return ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
