"""Look up a name again and again; fail when one look-up fails or takes long.

Arguments: the name, seconds to go on, look-ups that there must be at least. Runs in a pod, with the standard library.
"""

import collections
import socket
import sys
import time

name, seconds, least = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
done, worst, failures = 0, 0.0, collections.Counter()
end = time.monotonic() + seconds
while time.monotonic() < end or done < least:
    begun = time.monotonic()
    try:
        socket.getaddrinfo(name, 5432, type=socket.SOCK_STREAM)
    except OSError as error:
        failures[str(error)] += 1
    worst = max(worst, time.monotonic() - begun)
    done += 1
    if done % 1000 == 0:
        time.sleep(0.02)  # the server in the same pod goes on working
    if time.monotonic() > end + 30:
        break
print(f"{done} look-ups of {name}, {sum(failures.values())} failed {dict(failures)}, the slowest took {worst:.2f} s")
sys.exit(bool(failures) or worst > 2 or done < least)
