"""What candidates must pass to become rows; every gate is counted, and rejects keep their reasons.

Each module holds one kind of gate; `build` chooses those that a configuration asks for.
"""
