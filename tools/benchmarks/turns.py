"""Interleave the timed calls, so that clock drift affects all of them equally."""
import time


def times_in_turn(calls, rounds, advance):
    """Times of each call in s, by key. Each round runs all calls once. The first round is a warm-up."""
    times = {key: [] for key in calls}
    for _ in range(rounds + 1):
        for key, call in calls.items():
            begin = time.perf_counter()
            call()
            times[key].append(time.perf_counter() - begin)
            advance()
    return {key: values[1:] for key, values in times.items()}
