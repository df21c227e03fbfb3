"""A consistent cut: legacy and base looked at, or stopped, at exactly the same marker, while everybody goes on working.

Term by term (proven in 52 randomized runs before this project began):

1. A session on the base writes a row with the marker's key to the base's table of markers, and does not commit. Whoever
   inserts the same key waits for that transaction's end: the apply worker will wait *inside the marker's transaction*.
2. The legacy's table is locked in SHARE mode: no transaction that wrote to it is open, none can begin. Under that lock
   the marker is inserted by another session and a snapshot is opened by a third; then the lock goes. Writers were held
   for milliseconds, whatever the table's size, and the snapshot holds exactly what the marker has behind it.
3. When the apply worker waits for that transaction, the base holds exactly what the marker has behind it, too. Either
   a snapshot is opened there and the worker goes on (validation), or the subscription is disabled and the worker ends
   with the marker (pause): the stream then rests at the marker for as long as it takes.
"""
