"""What runs by itself: sensors and schedules."""
