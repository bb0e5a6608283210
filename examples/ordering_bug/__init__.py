"""A small service with an ordering bug that one seed shows every time. See README.md."""
