"""The library behind Raftline: all logic, no orchestration."""

import os

# OpenMP's threads wait by spinning. As soon as a core is shared (a Prefect server and two workers
# are enough) they spin for time slices they do not have: generation took 12 times as long, measured
# on two busy cores, and as long as before on idle ones. OpenMP reads this once, when torch is first
# imported, which happens inside functions only; so here is early enough for every entry point.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
