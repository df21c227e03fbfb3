-- The demo's legacy: one table as it grows over the years, unpartitioned. Read by bookings.py, section by section.
-- Everything is derived from hashint8extended(row number, seed), never from random(): the same seed and row count give the same contents on every
-- run and server version. Integer arithmetic only (no libm), mod() instead of the percent sign (psycopg's placeholder), TimeZone is UTC throughout.

-- section: schema
CREATE SEQUENCE public.amenity_bookings_id_seq AS bigint;
CREATE TYPE public.booking_status AS ENUM ('requested', 'confirmed', 'checked_in', 'completed', 'cancelled', 'no_show');
CREATE DOMAIN public.email_address AS text CONSTRAINT email_address_shape CHECK (VALUE ~ '^[^@\s]+@[^@\s]+$');
CREATE TABLE public.amenity_bookings (
    id bigint NOT NULL DEFAULT nextval('public.amenity_bookings_id_seq'),
    booked_at timestamptz NOT NULL DEFAULT now(),
    amenity text NOT NULL,
    resident_id bigint NOT NULL,
    property_id integer NOT NULL,
    legacy_ref varchar(20) DEFAULT 'AB/old-system',
    unit text,
    status public.booking_status NOT NULL DEFAULT 'requested',
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    guests smallint NOT NULL DEFAULT 1,
    price numeric(10,2) NOT NULL DEFAULT 0,
    discount numeric,
    currency char(3) NOT NULL DEFAULT 'USD',
    contact_email public.email_address,
    notes text,
    metadata jsonb NOT NULL DEFAULT '{}',
    tags text[],
    access_code uuid,
    cancelled boolean NOT NULL DEFAULT false,
    is_recurring boolean NOT NULL DEFAULT false,
    channel text,
    created_by text NOT NULL DEFAULT 'system',
    updated_at timestamptz DEFAULT now(),
    amount_due numeric GENERATED ALWAYS AS (price - COALESCE(discount, 0)) STORED,
    CONSTRAINT amenity_bookings_period_check CHECK (ends_at > starts_at),
    CONSTRAINT amenity_bookings_guests_check CHECK (guests BETWEEN 0 AND 500)
);
ALTER SEQUENCE public.amenity_bookings_id_seq OWNED BY public.amenity_bookings.id;
COMMENT ON TABLE public.amenity_bookings IS 'Every booking of a shared amenity, since the beginning; never partitioned.';
COMMENT ON COLUMN public.amenity_bookings.booked_at IS 'When the resident booked: decides the fiscal quarter and week.';
COMMENT ON COLUMN public.amenity_bookings.notes IS 'Free text of residents and staff; now and then a pasted attachment.';
COMMENT ON COLUMN public.amenity_bookings.discount IS 'In the booking''s currency; older entries keep the decimals of their import.';

-- section: hours
-- One row for each hour from 2023-07-01 to noon of 2024-06-24 with the row numbers that fall into it: volume grows fourfold over the year (FY25-Q2
-- holds two fifths), Fridays and Saturdays are busier, month ends peak, nights are quiet.
CREATE TEMPORARY TABLE booking_hours AS
WITH hours AS (
    SELECT h AS starts, extract(epoch FROM h - timestamptz '2023-07-01 00:00:00+00')::bigint / 86400 AS day, extract(hour FROM h)::int AS hour
    FROM generate_series(timestamptz '2023-07-01 00:00:00+00', timestamptz '2024-06-24 11:00:00+00', interval '1 hour') AS h
), weighted AS (
    SELECT starts,
        (41000 + day * day)
        * (ARRAY[100, 96, 98, 104, 122, 131, 84])[extract(isodow FROM starts)::int]
        * (ARRAY[3, 2, 1, 1, 2, 5, 14, 30, 46, 52, 48, 44, 46, 44, 40, 42, 50, 62, 70, 66, 50, 32, 16, 7])[hour + 1]
        * CASE WHEN extract(month FROM starts + interval '3 days') <> extract(month FROM starts) THEN 125 ELSE 100 END
        * (92 + mod(hashint8extended(day, %(seed)s) & 65535, 17)) / 10000 AS weight
    FROM hours
), cumulated AS (
    SELECT starts, weight, sum(weight) OVER (ORDER BY starts) AS reached, sum(weight) OVER () AS total FROM weighted
)
SELECT starts, div(%(rows)s * (reached - weight), total)::bigint + 1 AS first_n, div(%(rows)s * reached, total)::bigint AS last_n
FROM cumulated ORDER BY starts;

-- section: source
-- Rows first..last in the order in which they were booked. The OFFSET 0 are fences: without them the planner would repeat each hash at every use.
CREATE FUNCTION pg_temp.booking_rows(first bigint, last bigint, seed bigint) RETURNS TABLE (
    id bigint, booked_at timestamptz, amenity text, resident_id bigint, property_id integer, unit text, status public.booking_status,
    starts_at timestamptz, ends_at timestamptz, guests smallint, price numeric, discount numeric, currency char(3), contact_email text, notes text,
    metadata jsonb, tags text[], access_code uuid, cancelled boolean, is_recurring boolean, channel text, created_by text, updated_at timestamptz,
    loyalty_points integer
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
SELECT 1000000 + n + n / 50,  -- a sequence that has lost a value now and then
    booked_at,
    (ARRAY['Rooftop pool', 'Fitness centre', 'Party room', 'Guest suite', 'Tennis court', 'BBQ terrace', 'Cinema', 'Co-working space', 'Sauna',
           'Café d''été', 'Dog spa', 'EV charger', 'Freight elevator', 'Music studio', 'Squash court', 'Wine cellar'])[1 + (h1 & 15)],
    resident_id,
    1 + mod(resident_id, 613)::int,
    CASE WHEN mod(resident_id, 41) > 0 THEN concat(1 + mod(resident_id, 38), chr(65 + mod(resident_id, 11)::int)) END,
    (CASE WHEN cancelled THEN 'cancelled'
          WHEN ends_at < as_of THEN CASE WHEN mod(h1 >> 24 & 1023, 29) = 0 THEN 'no_show' ELSE 'completed' END
          WHEN starts_at < as_of THEN 'checked_in'
          WHEN h1 >> 24 & 3 = 0 THEN 'requested' ELSE 'confirmed' END)::public.booking_status,
    starts_at,
    ends_at,
    (1 + mod(h1 >> 34 & 1023, CASE h1 & 15 WHEN 2 THEN 80 WHEN 5 THEN 24 ELSE 6 END))::smallint,
    (mod(h2 & 1048575, 48000) * 0.01)::numeric(10,2),
    CASE mod(h2 >> 20 & 1023, 16)
        WHEN 0 THEN mod(h2 >> 30 & 1023, 20)::numeric
        WHEN 1 THEN mod(h2 >> 30 & 1023, 200) * 0.1
        WHEN 2 THEN mod(h2 >> 30 & 1023, 900) * 0.01
        WHEN 3 THEN mod(h2 >> 30 & 65535, 60000) * 0.0001
        WHEN 4 THEN 5.00
        WHEN 5 THEN 0.000000
        WHEN 6 THEN 2.50
    END,
    (ARRAY['USD', 'USD', 'USD', 'USD', 'USD', 'CAD', 'EUR', 'GBP'])[1 + (h2 >> 44 & 7)],
    CASE WHEN mod(resident_id, 23) > 0 THEN concat('resident.', resident_id, '@', (ARRAY['example.com', 'mail.example.org', 'post.example.net'])[1 + mod(resident_id, 3)]) END,
    CASE WHEN mod(h3 & 65535, 1000) < 10 THEN  -- one in a hundred: base64 that no compression shrinks; 3 of 10 of them 10 to 20 kB, the others from 2.5 kB
            (SELECT concat('Attachment pasted by the front desk:', chr(10),
                           string_agg(encode(sha512(int8send(n) || int8send(seed) || int8send(block)), 'base64'), chr(10) ORDER BY block))
             FROM generate_series(1, CASE WHEN mod(h3 & 65535, 1000) < 3 THEN 118 + (h3 >> 16 & 63) + (h3 >> 22 & 31) ELSE 29 + (h3 >> 16 & 31) END) AS block)
         WHEN mod(h3 & 65535, 1000) < 130 THEN NULL
         WHEN mod(h3 & 65535, 1000) < 140 THEN ''
         ELSE concat_ws(CASE WHEN h3 >> 62 & 1 = 0 THEN ' ' ELSE chr(10) END,
            concat('Booking ', to_char(starts_at, 'Dy DD Mon HH24:MI'), ', ref ', n, '.'),
            phrase[1 + (h3 >> 16 & 15)], phrase[1 + (h3 >> 20 & 15)], phrase[1 + (h3 >> 24 & 15)],
            CASE WHEN h3 >> 28 & 7 > 0 THEN phrase[1 + (h3 >> 31 & 15)] END,
            CASE WHEN h3 >> 28 & 7 > 1 THEN phrase[1 + (h3 >> 35 & 15)] END,
            CASE WHEN h3 >> 28 & 7 > 3 THEN phrase[1 + (h3 >> 39 & 15)] END,
            CASE WHEN h3 >> 28 & 7 > 5 THEN concat(phrase[1 + (h3 >> 43 & 15)], ' ', phrase[1 + (h3 >> 47 & 15)]) END)
    END,
    jsonb_build_object('device', (ARRAY['ios', 'android', 'web', 'kiosk'])[1 + (h4 & 3)], 'app_version', concat('7.', h4 >> 2 & 15, '.', h4 >> 6 & 7),
        'lead_minutes', h4 >> 9 & 16383, 'deposit', (h4 >> 23 & 8191) * 0.05, 'terms_accepted', h4 >> 36 & 7 > 0,
        'rating', CASE WHEN h4 >> 39 & 1 = 0 THEN 1 + (h4 >> 40 & 3) END, 'extras', jsonb_build_array('towels', h4 >> 42 & 3, 'Straße ☀')),
    CASE mod(h4 >> 44 & 1023, 6) WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY['vip'] WHEN 3 THEN ARRAY['family', 'pets', 'quiet hours']
        ELSE ARRAY['season ' || (h4 >> 54 & 3), NULL, 'follow-up, "late"'] END,
    CASE WHEN h5 & 7 > 0 THEN lpad(to_hex(h5), 16, '0')::text || lpad(to_hex(h4), 16, '0') END::uuid,
    cancelled,
    h5 >> 3 & 7 = 0,
    (ARRAY['app', 'app', 'app', 'web', 'web', 'front desk', 'phone', NULL])[1 + (h5 >> 6 & 7)],
    (ARRAY['Resident.Portal', 'Front.Desk', 'Concierge', 'nightly-import', 'MOBILE-GATEWAY', 'system'])[1 + mod(h5 >> 9 & 1023, 6)],
    CASE WHEN h5 >> 19 & 31 > 0 THEN least(booked_at + (h5 >> 24 & 1048575) * interval '1 second', as_of) END,
    mod(h5 >> 44 & 65535, 250)::int
FROM (
    SELECT *, starts_at + (30 + 15 * (h2 >> 52 & 15)) * interval '1 minute' AS ends_at, timestamptz '2024-06-24 12:00:00+00' AS as_of,
        ARRAY['Please have the lights on before we come in, last time it was dark.', 'Deposit was paid in cash at the front desk, receipt kept.',
              'Two of the guests use a wheelchair, ramp needed at the east door.', 'Caterer arrives an hour earlier through the freight elevator.',
              'The resident asked to be called back about the cleaning fee.', 'Quiet hours were explained & accepted.', 'Key card handed out; 2 spare cards remain.',
              'Birthday party, balloons allowed, no confetti 🎈.', 'Moved once already because of the pool maintenance (see the e-mail of Thursday).',
              'Path on the share: \\frontdesk\forms\waiver.pdf', 'Renewal of the standing booking, same terms as last month.', 'No answer at the door, left a note.',
              'Überlänge: the session may run 15 minutes over, approved by the manager.', 'Tables and chairs for twelve, projector, extension cord, HDMI adapter.',
              'Refund of 50 % if cancelled later than a day before the start.', 'Parking for one van on level P2, bay 14.'] AS phrase
    FROM (
        SELECT *, date_trunc('hour', booked_at) + (1 + (h1 >> 44 & 511)) * interval '1 hour' + (h1 >> 53 & 1) * interval '30 minutes' AS starts_at
        FROM (
            SELECT *,
                CASE WHEN entered - late < timestamptz '2023-07-01 00:00:00+00' THEN entered ELSE entered - late END AS booked_at
            FROM (
                -- Rows lie in the order of entry; some were entered late: hours (8%), days (4%), weeks (1%) after the booking was made.
                SELECT n, h1, h2, h3, h4, h5, 1 + mod(h5 & 9223372036854775807, greatest(40, total / 14)) AS resident_id,
                    mod(h1 >> 4 & 1048575, 100) < 9 AS cancelled,
                    starts + mod(h6 & 68719476735, 3600000000) * interval '1 microsecond' AS entered,
                    CASE WHEN mod(h6 >> 36 & 65535, 100) < 8 THEN (h6 >> 52 & 255) * interval '1 minute'
                         WHEN mod(h6 >> 36 & 65535, 100) < 12 THEN (1 + (h6 >> 52 & 7)) * interval '24 hours'
                         WHEN mod(h6 >> 36 & 65535, 100) < 13 THEN (7 + (h6 >> 52 & 63)) * interval '24 hours'
                         ELSE interval '0' END AS late
                FROM (
                    SELECT n, starts, total, hashint8extended(n, seed * 8 + 1) AS h1, hashint8extended(n, seed * 8 + 2) AS h2,
                        hashint8extended(n, seed * 8 + 3) AS h3, hashint8extended(n, seed * 8 + 4) AS h4,
                        hashint8extended(n, seed * 8 + 5) AS h5, hashint8extended(n, seed * 8 + 6) AS h6
                    FROM (SELECT *, max(last_n) OVER () AS total FROM booking_hours ORDER BY starts) AS b,
                        LATERAL generate_series(greatest(b.first_n, first), least(b.last_n, last)) AS n
                    OFFSET 0
                ) AS hashed OFFSET 0
            ) AS dated OFFSET 0
        ) AS placed OFFSET 0
    ) AS timed OFFSET 0
) AS complete
$$;

-- section: insert_before_2023_10
INSERT INTO public.amenity_bookings (id, booked_at, amenity, resident_id, property_id, unit, status, starts_at, ends_at, guests, price, discount,
    currency, contact_email, notes, metadata, tags, access_code, cancelled, is_recurring, channel, created_by, updated_at)
SELECT id, booked_at, amenity, resident_id, property_id, unit, status, starts_at, ends_at, guests, price, discount,
    currency, contact_email, notes, metadata, tags, access_code, cancelled, is_recurring, channel, created_by, updated_at
FROM pg_temp.booking_rows(%(first)s, %(last)s, %(seed)s);

-- section: release_2023_10
-- One column goes and leaves a hole in attnum, another comes: the rows above have it only through pg_attribute.attmissingval.
ALTER TABLE public.amenity_bookings DROP COLUMN legacy_ref;
ALTER TABLE public.amenity_bookings ADD COLUMN loyalty_points integer NOT NULL DEFAULT 25;
ALTER TYPE public.booking_status ADD VALUE 'waitlisted' BEFORE 'confirmed';

-- section: insert_since_2023_10
INSERT INTO public.amenity_bookings (id, booked_at, amenity, resident_id, property_id, unit, status, starts_at, ends_at, guests, price, discount,
    currency, contact_email, notes, metadata, tags, access_code, cancelled, is_recurring, channel, created_by, updated_at, loyalty_points)
SELECT * FROM pg_temp.booking_rows(%(first)s, %(last)s, %(seed)s);

-- section: indexes
ALTER TABLE public.amenity_bookings ADD CONSTRAINT amenity_bookings_pkey PRIMARY KEY (id);
CREATE INDEX amenity_bookings_booked_at_idx ON public.amenity_bookings (booked_at);
CREATE INDEX amenity_bookings_resident_idx ON public.amenity_bookings (resident_id, booked_at);
CREATE INDEX amenity_bookings_property_idx ON public.amenity_bookings (property_id, starts_at);
CREATE INDEX amenity_bookings_open_idx ON public.amenity_bookings (starts_at) WHERE NOT cancelled AND status IN ('requested', 'confirmed');
CREATE INDEX amenity_bookings_created_by_idx ON public.amenity_bookings (lower(created_by));

-- section: finish
SELECT setval('public.amenity_bookings_id_seq', greatest((SELECT max(id) FROM public.amenity_bookings), 1));
DROP FUNCTION pg_temp.booking_rows(bigint, bigint, bigint);
DROP TABLE pg_temp.booking_hours;
ANALYZE public.amenity_bookings;
