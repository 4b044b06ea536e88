"""Finals: how the end of tasks is told to clients."""

from collections.abc import Sequence

from .copies import Copy
from .ledger import Record
from .messages import Final
from .values import Value


def final_of_copy(copy: Copy, copies: int, *, durable: bool) -> tuple[Final, dict[str, tuple[Value, ...]]]:
    """How a task of another owner ended, from the copy."""
    assert copy.status is not None
    final = Final(
        ids=(copy.id,),
        ns=copy.ns,
        statuses=(copy.status,),
        errors=(copy.last_error,),
        retries=(copy.errors + copy.restarts,),
        durations_ms=(copy.duration_ms,),
        copies=copies,
        durable=durable,
    )
    return final, {name: (value,) for name, value in copy.values.items()}


def final_of_records(records: Sequence[Record], *, durable: bool) -> tuple[Final, dict[str, tuple[Value, ...]]]:
    """How these tasks of one plan ended, and the rows of their results."""
    ids, statuses, errors, retries, durations_ms, results = [], [], [], [], [], []
    for record in records:
        ids.append(record.id)
        statuses.append(record.status)
        errors.append(record.error)
        retries.append(record.errors + record.restarts)
        durations_ms.append(record.ended_ms - record.accepted_ms)
        if record.result is not None:
            results.append(record.result)
    names = results[0].keys() if results else ()
    final = Final(
        ids=tuple(ids),
        ns=records[0].plan.ns,
        statuses=tuple(statuses),
        errors=tuple(errors),
        retries=tuple(retries),
        durations_ms=tuple(durations_ms),
        copies=records[0].copies,
        durable=durable,
    )
    columns = {}
    for name in names:
        columns[name] = tuple([result[name] for result in results])
    return final, columns
