-- Statements of astrodetect/db/access.py on the tables `api_keys`, `sessions` and `audit_log`.

-- name: add_key
INSERT INTO api_keys (name, sha256, scopes, expires)
VALUES (%(name)s, %(sha256)s, %(scopes)s, now() + make_interval(days => %(days)s))
ON CONFLICT (name) DO NOTHING
RETURNING name

-- name: keys
SELECT name, scopes, created, expires, revoked, last_used FROM api_keys ORDER BY created, name

-- name: revoke_key
UPDATE api_keys SET revoked = now() WHERE name = %(name)s AND revoked IS NULL RETURNING name

-- name: use_key
UPDATE api_keys SET last_used = now()
WHERE sha256 = %(sha256)s AND revoked IS NULL AND (expires IS NULL OR expires > now())
RETURNING name, scopes, sha256

-- name: add_session
WITH ended AS (DELETE FROM sessions WHERE expires < now())
INSERT INTO sessions (sha256, key_sha256, expires)
VALUES (%(sha256)s, %(key_sha256)s, now() + make_interval(secs => %(seconds)s))
RETURNING sha256

-- name: session_key
SELECT key_sha256 FROM sessions WHERE sha256 = %(sha256)s AND expires > now()

-- name: end_session
DELETE FROM sessions WHERE sha256 = %(sha256)s RETURNING sha256

-- name: add_audit_entry
INSERT INTO audit_log (who, address, request, status) VALUES (%(who)s, %(address)s, %(request)s, %(status)s) RETURNING id

-- name: end_audit_entry
UPDATE audit_log SET status = %(status)s WHERE id = %(id)s RETURNING id

-- name: audit_entries
SELECT id, "timestamp", who, address, request, status FROM audit_log
WHERE id < %(before)s ORDER BY id DESC LIMIT %(limit)s

-- name: add_guess
-- Times in the future are of before the server's clock was set back.
WITH ended AS (
        DELETE FROM key_guesses WHERE "timestamp" NOT BETWEEN now() - make_interval(secs => %(seconds)s)
            AND now() + make_interval(secs => %(seconds)s)),
    added AS (INSERT INTO key_guesses (network, guess) VALUES (%(network)s, %(guess)s))
SELECT guess, extract(epoch FROM now() - min("timestamp"))::float8 AS age_s FROM key_guesses
WHERE network = %(network)s AND guess <> %(guess)s AND "timestamp" BETWEEN now() - make_interval(secs => %(seconds)s)
    AND now() + make_interval(secs => %(seconds)s)
GROUP BY guess ORDER BY age_s
LIMIT %(limit)s
