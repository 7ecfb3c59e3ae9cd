-- A key may have a rate limit of its own, and remembers who made it: a login role, or the prefix of another key.
alter table platform.api_keys
    add column rate_limit int check (rate_limit > 0),
    add column created_by text not null default session_user;

-- Callers with the scope admin make and revoke keys. What a key is and may do never changes.
grant insert (prefix, sha256, scopes, label, expires_at, rate_limit, created_by) on platform.api_keys to platform_api;
grant update (revoked_at) on platform.api_keys to platform_api;
