-- Why:   apps call the HTTP API with keys, each of which can be revoked without the others.
-- Locks: nothing, the table is new. A call locks the row of its key.
-- Undo:  drop function public.create_embedding_api_key, public.revoke_embedding_api_key, public.embedding_api_key;
--        drop table public.embedding_api_keys;
--
-- A key is random and as long as its hash, so the hash tells nothing of it, and needs no salt.

create table public.embedding_api_keys (
    id integer generated always as identity primary key,
    name text not null,                            -- the app that has the key
    key_hash bytea not null,                       -- sha256 of the key
    scopes text[] not null,                        -- what it may do: embed, search, status
    requests_per_minute integer,                   -- null: no limit
    created_at timestamptz not null default now(),
    expires_at timestamptz,                        -- null: never
    last_used_at timestamptz,                      -- to a minute
    revoked_at timestamptz,
    constraint embedding_api_keys_name unique (name),
    constraint embedding_api_keys_hash unique (key_hash),
    constraint embedding_api_keys_sha256 check (octet_length(key_hash) = 32),
    constraint embedding_api_keys_scopes check (scopes <@ array['embed', 'search', 'status'] and cardinality(scopes) > 0),
    constraint embedding_api_keys_rate check (requests_per_minute > 0)
);

-- Adds a key, of which only the hash is known here. Without `expires_in` it is valid until it is revoked.
create function public.create_embedding_api_key(
    name text, key_hash bytea, scopes text[], requests_per_minute integer default null, expires_in interval default null,
    source text default 'sql'
)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
begin
    if create_embedding_api_key.name !~ '^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$' is not false then
        raise exception 'a key cannot have the name %', quote_nullable(left(create_embedding_api_key.name, 100))
            using errcode = 'invalid_parameter_value',
                  hint = 'Give 1 to 100 letters, digits, spaces, dots, hyphens and underscores, a letter or digit first.';
    elsif cardinality(create_embedding_api_key.scopes) > 0 is not true
          or create_embedding_api_key.scopes <@ array['embed', 'search', 'status'] is not true then
        raise exception 'these are no scopes of a key: %',
                        coalesce(nullif(array_to_string(create_embedding_api_key.scopes, ', ', 'null'), ''), 'none')
            using errcode = 'invalid_parameter_value', hint = 'The scopes are embed, search and status.';
    elsif octet_length(create_embedding_api_key.key_hash) is distinct from 32 then
        raise exception 'the hash of a key has 32 bytes' using errcode = 'invalid_parameter_value', hint = 'Give its SHA-256.';
    elsif create_embedding_api_key.requests_per_minute <= 0 or expires_in <= interval '0' then
        raise exception 'a key of no requests, or no time, is of no use'
            using errcode = 'invalid_parameter_value', hint = 'Give numbers above zero, or null for no limit.';
    end if;
    insert into public.embedding_api_keys (name, key_hash, scopes, requests_per_minute, expires_at)
    values (create_embedding_api_key.name, create_embedding_api_key.key_hash,
            array(select distinct given.scope from unnest(create_embedding_api_key.scopes) as given (scope) order by 1),
            create_embedding_api_key.requests_per_minute, now() + expires_in)
    on conflict on constraint embedding_api_keys_name do nothing;
    if not found then
        raise exception 'there is a key named % already', quote_literal(create_embedding_api_key.name)
            using errcode = 'invalid_parameter_value', hint = 'Choose another name: that of a revoked key stays taken.';
    end if;
    perform embedding.audit(
        'key_created', null, null, source,
        jsonb_strip_nulls(jsonb_build_object(
            'key', create_embedding_api_key.name, 'scopes', create_embedding_api_key.scopes,
            'requests_per_minute', create_embedding_api_key.requests_per_minute, 'expires_at', now() + expires_in)));
end $$;

-- Revokes a key for good. Returns false if there is none of that name, or it was revoked before.
create function public.revoke_embedding_api_key(name text, source text default 'sql')
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
begin
    update public.embedding_api_keys as known set revoked_at = now()
     where known.name = revoke_embedding_api_key.name and known.revoked_at is null;
    if not found then
        return false;
    end if;
    perform embedding.audit(
        'key_revoked', null, null, source, jsonb_build_object('key', revoke_embedding_api_key.name));
    return true;
end $$;

-- What the key with this hash may do; nothing unless it is valid. Notes its use, once a minute.
create function public.embedding_api_key(key_hash bytea)
returns table (name text, scopes text[], requests_per_minute integer, expires_at timestamptz)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
begin
    update public.embedding_api_keys as known set last_used_at = now()
     where known.id = (select used.id from public.embedding_api_keys as used
                        where used.key_hash = embedding_api_key.key_hash and used.revoked_at is null
                          and (used.last_used_at < now() - interval '1 minute') is not false
                          for update skip locked)
       and current_setting('transaction_read_only') = 'off';
    return query
    select known.name, known.scopes, known.requests_per_minute, known.expires_at from public.embedding_api_keys as known
     where known.key_hash = embedding_api_key.key_hash and known.revoked_at is null
       and (known.expires_at <= now()) is not true;
end $$;

select embedding.let_workers_read('public.embedding_api_keys');
select embedding.let_workers_call('public.embedding_api_key');
-- The server lets a key search with its own rights, which may be more than those of a worker.
select embedding.protect_functions('public.create_embedding_api_key', 'public.revoke_embedding_api_key');
select embedding.grant_to('service_role', 'execute on function '
    'public.create_embedding_api_key, public.revoke_embedding_api_key');
