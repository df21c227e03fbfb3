"""Proof that both sides are equal: validation, repair, reconciliation, and the sign-off based on them."""
