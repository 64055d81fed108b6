"""Comparing runs: ``reading`` (runs and tables from their folders), ``statistics`` (spreads, differences, confusions), ``paper`` (the
paper's own numbers), ``tables`` (for people, as markdown and as CSV) and ``figures``. ``tools/compare.py`` is their command line.

A *row* is what a table compares: a strategy, or a row of ``table.yaml``, with a run per seed. A *column* is a dataset, the datasets of one
domain, or all of them together. Everything is computed from what was found of each test picture (``per_image.npz``).

    from densemtmd.compare.reading import read_table
    from densemtmd.compare.statistics import against
    from densemtmd.compare.tables import compared

    table = read_table([Path("runs/street7")])
    base, differences = against(table)
    print(compared(table, base, differences).screen)
"""
