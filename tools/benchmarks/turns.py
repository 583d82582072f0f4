"""Calls timed in turn, so that a machine whose speed wanders wanders for all of them."""
import time


def times_in_turn(calls, rounds, advance):
    """Times in s of every call by its key, all in turn, after one of each that does not count."""
    times = {key: [] for key in calls}
    for _ in range(rounds + 1):
        for key, call in calls.items():
            begin = time.perf_counter()
            call()
            times[key].append(time.perf_counter() - begin)
            advance()
    return {key: values[1:] for key, values in times.items()}
