"""Where documents come from: every kind of source ends as a list of inputs that any worker reads.

`scan.scan_sources` lists them and hashes what may have changed; `reading.InputReader` reads one
again, wherever it is needed, from its locator.
"""
