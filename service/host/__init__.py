"""The machine: its cores, its memory, and what may be there otherwise than expected."""
