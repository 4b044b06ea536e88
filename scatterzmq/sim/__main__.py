"""`python -m scatterzmq.sim`: run seeds, tell the story of one that fails, make it small.

`python -m scatterzmq.sim replay FILE`: the same for a peer that was recorded (sim/replay.py).
"""

import argparse
import sys
import time
from collections.abc import Sequence

from .options import FAULTS, Options, draw
from .replay import main as replay
from .runs import Coverage, Result, minimise, run, sweep

STORY_LINES = 80


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if something that must hold did not."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["replay"]:
        return replay(words[1:], _say)
    parser = argparse.ArgumentParser(
        prog="python -m scatterzmq.sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after another")
    parser.add_argument("--jobs", type=int, default=1, help="processes to share them")
    parser.add_argument("--steps", type=int, help="end faults after so many steps")
    parser.add_argument("--peers", type=int, help="that many, whatever the seed says")
    parser.add_argument("--no", action="append", default=[], choices=sorted(FAULTS), help="without this fault")
    parser.add_argument("--check-every", type=int, default=0, help="events of a peer between looks at all it holds")
    parser.add_argument("--trace", action="store_true", help="print the whole story")
    parser.add_argument("--minimise", action="store_true", help="look for fewer steps and faults that still fail")
    given = parser.parse_args(words)
    many = [_options(seed, given) for seed in range(given.seed, given.seed + given.seeds)]
    coverage, events, wrong = Coverage(), 0, []
    begun = time.perf_counter()
    for result in sweep(many, jobs=given.jobs):
        coverage.add(result)
        events += result.events
        if given.seeds == 1:
            _say(f"SEED={given.seed} {result.options.told()}")
            _say(f"{result.steps} steps, {result.events} events, {result.now_us / 1e6:.1f} s, trace {result.digest}")
        if result.wrong:
            wrong.append(result.options.seed)
            _tell(result, given)
        if given.trace:
            _say("\n".join(run(result.options, is_told=True).texts))
    if given.seeds > 1:
        seconds = time.perf_counter() - begun
        _say(f"\n{given.seeds} seeds, {events} events, {events / seconds:.0f} events/s, {seconds:.1f} s")
        _say(f"violations: {len(wrong)}{' in seeds ' + ' '.join(map(str, sorted(wrong))) if wrong else ''}")
        _say("\n".join(coverage.lines()))
    return 1 if wrong else 0


def _options(seed: int, given: argparse.Namespace) -> Options:
    options = draw(seed, peers=given.peers, steps=given.steps, check_every=given.check_every)
    return options.without(*given.no)


def _tell(result: Result, given: argparse.Namespace) -> None:
    """What went wrong, and the story of the tasks concerned."""
    options = result.options
    _say(f"\nVIOLATION SEED={options.seed} {options.told()}\n{result.wrong}")
    if given.minimise:
        options = minimise(options, result.wrong)
        _say(f"\nsmaller: --seed {options.seed} --steps {options.steps}\n{options.told()}")
    told = run(options, is_told=True)
    names = told.tasks[:1]
    lines = [line for line in told.texts if not names or any(_names(line, name) for name in names)]
    _say("\n".join(lines[-STORY_LINES:]))


def _names(line: str, name: str) -> bool:
    return f"{name}," in line or f"{name})" in line or f"{name} " in line or " world " in line


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
