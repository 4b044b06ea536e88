"""The proving ground: many peers, their clients and a bad network in one thread, under a clock of its own.

Drives the real core and the real wire codec; executors and tensors are stubs of which an oracle knows each right
result. Same seed, same run: `python -m scatterzmq.sim --seed 7` shows one, `World` makes one by hand.
"""
