"""What watching, chaos, placement, delays, references and checks cost: ``python -m benchmarks.overheads``.

Imports point down::

    __main__ -> observers | injection | delayed | lateness | round_trips | own_loop -> placement -> pumped | peers

Each of these modules but the last two is a part. Its function ``rounds(count, seconds)`` yields a dictionary of figures
per round; within a round what is compared takes turns of about ``seconds``, and from round to round the turns change
their order. A part runs in a process of its own, so that what it starts is not there when the next one is measured.

Costs are CPU time of the whole process wherever that is what is meant: on a shared machine it varies by less than one
percent where wall time varies by fifty.
"""
