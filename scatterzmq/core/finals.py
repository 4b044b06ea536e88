"""Finals: how the end of tasks is told to clients."""

from collections.abc import Sequence

from .copies import Copy
from .ledger import Record
from .messages import Final
from .values import Value


def final_of_copy(copy: Copy, copies: int) -> tuple[Final, dict[str, tuple[Value, ...]]]:
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
    )
    return final, {name: (value,) for name, value in copy.values.items()}


def final_of_records(
    records: Sequence[Record], now_ms: int, *, durable: bool
) -> tuple[Final, dict[str, tuple[Value, ...]]]:
    """How these tasks of one plan ended, and the rows of their results."""
    results = [record.result for record in records if record.result is not None]
    names = results[0].keys() if results else ()
    final = Final(
        ids=tuple([record.id for record in records]),
        ns=records[0].plan.ns,
        statuses=tuple([record.status for record in records]),
        errors=tuple([record.error for record in records]),
        retries=tuple([record.retries for record in records]),
        durations_ms=tuple([record.duration_ms(now_ms) for record in records]),
        copies=records[0].copies,
        durable=durable,
    )
    return final, {name: tuple([result[name] for result in results]) for name in names}
