"""Shares: how many tasks an executor takes at once.

Purpose   Executors of different speed are to be through with a job at the same time, while batches stay full as long as
          that makes no difference.
Rules     1. Who is free takes as much of what waits as it is fast, of all that work there. So a batch is cut only when
             it would take its executor longer than all together need for everything that waits.
          2. None is cut to less than takes BATCH_MS_MIN, as claiming costs something, nor where that saves no time.
          3. Who knows nothing cuts nothing.
Source    Guided self-scheduling (Polychronopoulos and Kuck 1987), by speed as in weighted factoring (Hummel, Schmidt,
          Uma and Wein 1996; factoring: Hummel, Schonberg and Flynn 1992).
"""

from math import ceil

BATCH_MS_MIN = 100
"""What takes less is not worth another claim: it costs some messages (2 to 3 kB at both sides together), and a node
that is called once more. So an executor claims ten times a second at most, and all are through within so much.
"""

US_PER_S = 1_000_000


def share(waiting: int, rate: float, *, task_us: int, tasks_min: int, tasks_max: int) -> int:
    """How many of the tasks that wait for a node one executor takes.

    waiting, rate: tasks in all queues of the node, and how many per second all executors are believed to do of them.
    task_us: what a task takes this executor. tasks_min: fewer are not worth it. tasks_max: a full batch.
    """
    own_rate = US_PER_S / task_us
    part = ceil(waiting * own_rate / max(rate, own_rate))
    return min(max(part, tasks_min), tasks_max)
