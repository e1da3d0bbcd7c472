-- Wrong API keys of the last minute, by which the processes of one database count guesses together.
--
--   psql> SELECT network, count(DISTINCT guess), max("timestamp") FROM key_guesses GROUP BY 1;

CREATE UNLOGGED TABLE key_guesses (
    network     text        NOT NULL,              -- the address, or of IPv6 the network of 64 bits
    guess       bytea       NOT NULL,              -- the first bytes of its SHA-256
    "timestamp" timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX key_guesses_network ON key_guesses (network);
