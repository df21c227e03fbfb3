"""The SQL of live traffic. Rows are found by index: the next id from a random number on.

Rows that were booked before the traffic's range are left alone.
"""

from __future__ import annotations

from typing import Final

BOUNDS: Final = "SELECT min(id), max(id) FROM public.amenity_bookings WHERE booked_at >= %(since)s"
SMALL_UPDATE: Final = """
    UPDATE public.amenity_bookings SET status = %(status)s, guests = %(guests)s, price = %(price)s, updated_at = now()
    WHERE id = (SELECT id FROM public.amenity_bookings
                WHERE id >= %(id)s AND booked_at >= %(since)s ORDER BY id LIMIT 1)"""
TOAST_UNCHANGED: Final = """
    UPDATE public.amenity_bookings SET status = %(status)s, guests = %(guests)s, price = %(price)s, updated_at = now()
    WHERE id = (SELECT id FROM public.amenity_bookings
                WHERE id >= %(id)s AND id < %(id)s + 2000 AND booked_at >= %(since)s
                AND octet_length(notes) > 4000 ORDER BY id LIMIT 1)"""
NOTES_UPDATE: Final = """
    UPDATE public.amenity_bookings SET notes = %(notes)s, updated_at = now()
    WHERE id = (SELECT id FROM public.amenity_bookings
                WHERE id >= %(id)s AND booked_at >= %(since)s
                AND notes IS DISTINCT FROM %(notes)s::text ORDER BY id LIMIT 1)"""
DELETE: Final = """
    DELETE FROM public.amenity_bookings
    WHERE id = (SELECT id FROM public.amenity_bookings
                WHERE id >= %(id)s AND booked_at >= %(since)s ORDER BY id LIMIT 1) RETURNING id"""
LOCK_ONE: Final = """
    SELECT id, booked_at FROM public.amenity_bookings WHERE id >= %(id)s AND booked_at >= %(since)s
    ORDER BY id LIMIT 1 FOR NO KEY UPDATE"""
MOVE: Final = "UPDATE public.amenity_bookings SET booked_at = %(booked_at)s, updated_at = now() WHERE id = %(id)s"
INSERT: Final = """
    INSERT INTO public.amenity_bookings (id, booked_at, amenity, resident_id, property_id, unit, status, starts_at,
        ends_at, guests, price, discount, contact_email, notes, metadata, tags, access_code, is_recurring, channel,
        created_by)
    VALUES (coalesce(%(id)s::bigint, nextval('public.amenity_bookings_id_seq')), %(booked_at)s, %(amenity)s,
        %(resident_id)s, %(property_id)s, %(unit)s, %(status)s, %(starts_at)s, %(ends_at)s, %(guests)s, %(price)s,
        %(discount)s::text::numeric, %(contact_email)s, %(notes)s, %(metadata)s, %(tags)s, %(access_code)s,
        %(is_recurring)s, %(channel)s, 'live-traffic')
    ON CONFLICT DO NOTHING"""
