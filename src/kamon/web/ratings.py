"""Models that learn from the answers of somebody at a page."""


class Ratings: ...
