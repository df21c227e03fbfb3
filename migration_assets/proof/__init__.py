"""Whether both sides are equal: validation, repair, reconciliation, and the sign-off that rests on them."""
