-- Statements of astrodetect/db/sky_counts.py on the positions in `predictions`.

-- name: sky_cells
SELECT healpix >> %(shift)s AS cell, count(*)::int AS count, max(novelty) AS novelty, min(id) AS id, min(ra) AS ra,
    min(dec) AS dec
FROM predictions WHERE healpix IS NOT NULL AND {filters} AND {is_known}
GROUP BY 1

-- name: sky_cells_in_cone
SELECT found.healpix >> %(shift)s AS cell, count(*)::int AS count, max(novelty) AS novelty, min(id) AS id, min(ra) AS ra,
    min(dec) AS dec
FROM {cells} CROSS JOIN LATERAL (
    SELECT healpix, novelty, id, ra, dec FROM predictions WHERE {in_cells} AND {filters} AND {is_known} OFFSET 0) AS found
GROUP BY 1
