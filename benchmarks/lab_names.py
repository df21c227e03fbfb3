"""What is moved: apart, so that a worker loads nothing else."""

from migration_assets.domain.table_spec import QualifiedName, TableSpec

SPEC = TableSpec(QualifiedName.parse("public.amenity_bookings"), "booked_at")
MAINTENANCE_WORK_MEM_MB = 256  # what a slice's copy sets by default: the peers get the same
