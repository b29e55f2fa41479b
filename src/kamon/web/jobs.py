"""Trainings, each in a process of its own."""


class Jobs: ...
