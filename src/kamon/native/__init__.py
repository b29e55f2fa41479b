"""The C++ core: its source in `src`, and the libraries that `setup.py` builds from it."""
