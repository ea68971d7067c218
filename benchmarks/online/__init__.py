"""Online policies compared, as they learn: on streams of real outcomes, beside a peer, and in time."""
