"""A study on disk: written beside and renamed into place, opened lazily, every file compared with its manifest. No torch."""
