"""Access logs of other servers become counts, exactly once.

    file --reading--> whole lines --formats, tally--> hits by hour and URL --booking--> ledger

The log itself is the journal: `identity` names it by its content, and the watermark that the
ledger keeps under that name is the only truth about how far it is counted.
"""
