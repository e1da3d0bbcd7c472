-- API keys beside those of the setting ASTRODETECT_API_KEY, browsers that signed in, and who did what.
--
--   psql> SELECT name, scopes, created, expires, revoked, last_used FROM api_keys ORDER BY created;
--   psql> SELECT "timestamp", who, address, request, status FROM audit_log ORDER BY id DESC LIMIT 20;

CREATE TABLE api_keys (
    name      text        PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 100),
    sha256    bytea       NOT NULL UNIQUE,      -- of the key, which is stored nowhere
    scopes    text[]      NOT NULL,             -- of read, predict, review, operate
    created   timestamptz NOT NULL DEFAULT now(),
    expires   timestamptz,
    revoked   timestamptz,
    last_used timestamptz                       -- a few seconds late
);

-- Browsers that signed in. A session ends with its key, when it is signed out, or by its time.
CREATE TABLE sessions (
    sha256     bytea       PRIMARY KEY,         -- of the cookie
    key_sha256 bytea       NOT NULL,
    created    timestamptz NOT NULL DEFAULT now(),
    expires    timestamptz NOT NULL
);

-- Requests that changed or exported something: labels, models, trainings, keys, tables.
CREATE TABLE audit_log (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "timestamp" timestamptz NOT NULL DEFAULT now(),
    who         text,                           -- the name of the key; NULL where none is asked for
    address     text,                           -- of the client
    request     text        NOT NULL,           -- such as 'POST /models/resnet50_model/rollback'
    status      integer                         -- NULL while it is answered, or where the process was killed meanwhile
);
