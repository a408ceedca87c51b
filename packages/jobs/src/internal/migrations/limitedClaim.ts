/**
 * The function that claims jobs of a queue with limits over all nodes.
 *
 * One statement that locks and counts would count by a snapshot from before it waited for the lock, and go over the limit.
 * The statements of a volatile function have a snapshot each, at READ COMMITTED: the first locks the queue, and those after
 * it see what the claim before this one has done. Only claims of the same queue wait for each other.
 *
 * Partitions are served in turns, from the one after that which was served last. The walk goes from key to key in the
 * index, past partitions that may not start anything, and looks at `walkLimit` at most in one claim. Jobs without a
 * partition have theirs between the last and the first.
 */

/** How many partitions one claim looks at before it leaves the rest to the next. */
const walkLimit = 1_000

/**
 * Among how many jobs, beyond the demand, one claim looks for those without a partition: at the head of the queue, and if
 * none is there, from where the claim before has stopped. An index for them would cost every queue, and this no more than
 * their order where they are far apart.
 */
const searchLimit = 200

/** How long to wait for each partition that was looked at in vain, before it is looked at again. */
const paceMillis = 0.1

/** What is missing from a whole token after a sum of fractions. */
const rounding = 1e-6

/** Creates it in a schema, whose name is quoted already. */
export const create = (schema: string): string => `
create function ${schema}.claim_limited(
  of_queue text, demand int, by_node uuid, moment timestamptz, left_out text[]
) returns table (
  job ${schema}.jobs,
  -- On a last row without a job: when more may start, if it is a rate that keeps them.
  retry_millis double precision
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
-- Claims go by index whatever the statistics of an hour ago say.
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $claim$
declare
  instant constant timestamptz not null := coalesce(moment, statement_timestamp());
  any_worker constant boolean not null := coalesce(cardinality(left_out), 0) = 0;
  room int := demand;
  in_turns boolean;
  global_max int;
  start_max int; start_millis double precision;
  partition_max int;
  partition_start_max int; partition_start_millis double precision;
  cursor_key text;
  from_priority smallint; from_queued_at timestamptz; from_id bigint;

  queue_tokens double precision;
  by_rate boolean := false;
  executing jsonb := '{}';

  lap int := 1;
  place text;
  budget int := greatest(${walkLimit}, 2 * demand);
  walked int; eligible int; last_key text; keys text[]; free int[]; wait double precision;
  complete boolean := false;
  looked int := 0;
  least_wait double precision;

  searched constant int not null := ${searchLimit} + greatest(demand, 0);
  alone bigint[] := '{}'; alone_free int := 0;
  beyond boolean := false; to_priority smallint; to_queued_at timestamptz; to_id bigint;

  pool text[] := '{}'; pool_free int[] := '{}';
  share int; yielded int[]; next_pool text[]; next_free int[]; best_nth bigint; best_place bigint;
  served text[] := '{}';
  taken int := 0;
  row record;
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using
      errcode = 'invalid_transaction_state',
      message = format('Jobs of queue "%s" cannot be claimed in a %s transaction', of_queue,
        upper(current_setting('transaction_isolation'))),
      detail = 'Its limits are over all nodes, and such a transaction does not see what others have claimed since it began.',
      hint = 'Claim at READ COMMITTED.';
  end if;

  select nullif(coalesce(q.global_limit, q.code_global_limit), -1),
         nullif(coalesce(q.rate_limit, q.code_rate_limit), -1),
         case when q.rate_limit is null then q.code_rate_period_ms else q.rate_period_ms end,
         nullif(coalesce(q.partition_limit, q.code_partition_limit), -1),
         nullif(coalesce(q.partition_rate_limit, q.code_partition_rate_limit), -1),
         case when q.partition_rate_limit is null then q.code_partition_rate_period_ms else q.partition_rate_period_ms end,
         q.partition_cursor, q.unpartitioned_priority, q.unpartitioned_queued_at, q.unpartitioned_id
    into global_max, start_max, start_millis, partition_max, partition_start_max, partition_start_millis, cursor_key,
         from_priority, from_queued_at, from_id
    from ${schema}.queues q
   where q.name = of_queue and q.node = ''
     for no key update;
  in_turns := partition_max is not null or partition_start_max is not null;

  if global_max is not null then
    room := least(room, global_max - (
      select count(*) from ${schema}.jobs j where j.state = 'executing' and j.queue = of_queue));
  end if;
  if start_max is not null then
    queue_tokens := coalesce(
      (select ${refilled("b", "start_max", "start_millis")}
         from ${schema}.rate_buckets b where b.queue = of_queue and b.partition_key = ''),
      start_max);
    if floor(queue_tokens + ${rounding}) < room then
      room := floor(queue_tokens + ${rounding});
      by_rate := true;
    end if;
  end if;

  if room > 0 and not in_turns then
    for row in
      with c as materialized (
        select x.id, x.unique_key from ${schema}.jobs x
         where x.state = 'available' and x.queue = of_queue and ${included("x")}
         order by x.priority, x.queued_at, x.id
         limit room
           for no key update skip locked
      ), ${claim(schema)}
      returning j as claimed
    loop
      job := row.claimed;
      return next;
      taken := taken + 1;
    end loop;
    room := room - taken;
  end if;

  if room > 0 and in_turns then
    if partition_max is not null then
      executing := coalesce((
        select jsonb_object_agg(e.key, e.n)
          from (select coalesce(j.partition_key, '') as key, count(*) as n from ${schema}.jobs j
                 where j.state = 'executing' and j.queue = of_queue group by 1) e), '{}');
    end if;
    place := cursor_key;

    -- The first round: one job of each partition that may start one.
    while room > 0 and budget > 0 loop
      with recursive walk as (
        select 1 as n, f.key, a.free, a.wait, (a.free > 0)::int as eligible
          from (select case when place is null then '' else (${nextKey(schema, "place")}) end as key) f
         cross join lateral (${allowance(schema)}) a
         where f.key is not null and (lap = 1 or f.key <= cursor_key)
        union all
        select w.n + 1, f.key, a.free, a.wait, w.eligible + (a.free > 0)::int
          from walk w
         cross join lateral (${nextKey(schema, "w.key")}) f(key)
         cross join lateral (${allowance(schema)}) a
         where w.n < budget and w.eligible < room and (lap = 1 or f.key <= cursor_key)
      )
      select count(*), max(w.eligible), (array_agg(w.key order by w.n desc))[1], min(w.wait),
             coalesce(array_agg(w.key order by w.n) filter (where w.free > 0), '{}'),
             coalesce(array_agg(w.free order by w.n) filter (where w.free > 0), '{}')
        into walked, eligible, last_key, wait, keys, free
        from walk w;
      eligible := coalesce(eligible, 0);
      least_wait := least(least_wait, wait);
      looked := looked + walked;
      complete := walked < budget and eligible < room;
      budget := budget - walked;
      place := coalesce(last_key, place);

      if keys[1] = '' then
        alone_free := free[1];
        ${search(schema, "true")}
        if beyond and cardinality(alone) = 0 then
          if from_id is null or (from_priority, from_queued_at, from_id) < (to_priority, to_queued_at, to_id) then
            from_priority := to_priority; from_queued_at := to_queued_at; from_id := to_id;
          end if;
          ${search(schema, "(s.priority, s.queued_at, s.id) > (from_priority, from_queued_at, from_id)")}
          if cardinality(alone) = 0 then
            from_priority := to_priority; from_queued_at := to_queued_at; from_id := to_id;
          end if;
        end if;
      end if;

      if eligible > 0 then
        yielded := array_fill(0, array[eligible]);
        for row in
          with c as materialized (
            select x.id, x.unique_key, p.place
              from unnest(keys) with ordinality p(key, place)
             cross join lateral (${first(schema, "1")}) x
          ), ${claim(schema)}
          returning j as claimed, c.place
        loop
          job := row.claimed;
          return next;
          yielded[row.place] := 1;
          served := served || keys[row.place];
        end loop;
        for i in 1 .. eligible loop
          taken := taken + yielded[i];
          room := room - yielded[i];
          if yielded[i] > 0 and free[i] > 1 then
            pool := pool || keys[i];
            pool_free := pool_free || free[i] - 1;
          end if;
        end loop;
      end if;

      if complete then
        exit when lap = 2;
        lap := 2;
        place := null;
        complete := false;
      end if;
    end loop;
    if not complete then
      cursor_key := place;
    end if;

    -- More rounds, if all partitions together have not had enough jobs for one.
    while room > 0 and cardinality(pool) > 0 loop
      share := ceil(room::double precision / cardinality(pool));
      yielded := array_fill(0, array[cardinality(pool)]);
      best_nth := 0;
      best_place := 0;
      for row in
        with c as materialized (
          select x.id, x.unique_key, p.place, x.nth
            from unnest(pool, pool_free) with ordinality p(key, free, place)
           cross join lateral (
             select y.id, y.unique_key, row_number() over (order by y.priority, y.queued_at, y.id) as nth
               from (${first(schema, "least(share, p.free)")}) y
           ) x
           order by x.nth, p.place
           limit room
        ), ${claim(schema)}
        returning j as claimed, c.place, c.nth
      loop
        job := row.claimed;
        return next;
        yielded[row.place] := yielded[row.place] + 1;
        served := served || pool[row.place];
        if (row.nth, row.place) > (best_nth, best_place) then
          best_nth := row.nth;
          best_place := row.place;
        end if;
      end loop;
      next_pool := '{}';
      next_free := '{}';
      for i in 1 .. cardinality(pool) loop
        taken := taken + yielded[i];
        room := room - yielded[i];
        if yielded[i] = share and pool_free[i] > share then
          next_pool := next_pool || pool[i];
          next_free := next_free || pool_free[i] - share;
        end if;
      end loop;
      if complete and best_place > 0 then
        cursor_key := pool[best_place];
      end if;
      pool := next_pool;
      pool_free := next_free;
    end loop;

    update ${schema}.queues q
       set partition_cursor = cursor_key, unpartitioned_priority = from_priority,
           unpartitioned_queued_at = from_queued_at, unpartitioned_id = from_id
     where q.name = of_queue and q.node = ''
       and (q.partition_cursor <> cursor_key or q.unpartitioned_id is distinct from from_id);

    if beyond and alone_free > (select count(*) from unnest(served) s(key) where s.key = '') then
      complete := false;
      looked := looked + searched;
    end if;
  end if;

  if start_max is not null and taken > 0 then
    insert into ${schema}.rate_buckets as b (queue, partition_key, tokens, refilled_at)
    values (of_queue, '', queue_tokens - taken, instant)
    on conflict (queue, partition_key) do update set tokens = excluded.tokens, refilled_at = ${refilledAt("b")};
    queue_tokens := queue_tokens - taken;
  end if;
  if partition_start_max is not null and taken > 0 then
    with spent as (
      insert into ${schema}.rate_buckets as b (queue, partition_key, tokens, refilled_at)
      select of_queue, ':' || s.key, partition_start_max - count(*), instant
        from unnest(served) s(key) group by s.key order by s.key
      on conflict (queue, partition_key) do update set
        tokens = ${refilled("b", "partition_start_max", "partition_start_millis")} - (partition_start_max - excluded.tokens),
        refilled_at = ${refilledAt("b")}
      returning b.tokens
    )
    select least(least_wait, min(${untilNext("tokens", "partition_start_max", "partition_start_millis")}))
      into least_wait from spent where tokens + ${rounding} < 1;
    -- A bucket that is full again is as good as none: those of the partitions that are next, and the first ones.
    delete from ${schema}.rate_buckets b
     using (${buckets(schema, "':' || cursor_key")} union ${buckets(schema, "''")}) o
     where b.queue = of_queue and b.partition_key = o.partition_key
       and ${refilled("b", "partition_start_max", "partition_start_millis")} >= partition_start_max;
  end if;

  if by_rate and room = 0 then
    job := null;
    retry_millis := ${untilNext("queue_tokens", "start_max", "start_millis")};
    return next;
  elsif in_turns and room > 0 and (least_wait is not null or not complete) then
    job := null;
    retry_millis := greatest(case when complete then least_wait else 0 end, looked * ${paceMillis});
    return next;
  end if;
end
$claim$`

/**
 * How many tokens a bucket holds by now. A claim that waited for the lock may come with an earlier time than the one
 * before it, for which nothing is added; but what is far ahead is from before a server's clock was turned back.
 */
const refilled = (bucket: string, limit: string, millis: string): string => `
  case when ${isAhead(bucket)} then ${limit} else least(${limit}, ${bucket}.tokens
    + greatest(0, extract(epoch from instant - ${bucket}.refilled_at)::double precision) * 1000 * ${limit} / ${millis}) end`

/** From when on it is refilled. */
const refilledAt = (bucket: string): string =>
  `case when ${isAhead(bucket)} then instant else greatest(instant, ${bucket}.refilled_at) end`

const isAhead = (bucket: string): string => `${bucket}.refilled_at > instant + interval '1 minute'`

/** Milliseconds until there is a whole token. */
const untilNext = (tokens: string, limit: string, millis: string): string =>
  `greatest(0, 1 - ${tokens}) * ${millis} / ${limit}`

/** The partition with work that follows another. */
const nextKey = (schema: string, after: string): string => `
  select j.partition_key from ${schema}.jobs j
   where j.state = 'available' and j.queue = of_queue and j.partition_key > ${after}
   order by j.partition_key limit 1`

/** Looks for jobs without a partition in the next part of the queue, and tells where that ends if the queue goes on. */
const search = (schema: string, where: string): string => `
        select coalesce(array_agg(s.id) filter (where s.partition_key is null and ${included("s")}), '{}'),
               count(*) = searched, (array_agg(s.priority))[searched], (array_agg(s.queued_at))[searched],
               (array_agg(s.id))[searched]
          into alone, beyond, to_priority, to_queued_at, to_id
          from (
            select s.id, s.worker, s.args_version, s.partition_key, s.priority, s.queued_at from ${schema}.jobs s
             where s.state = 'available' and s.queue = of_queue and ${where}
             order by s.priority, s.queued_at, s.id
             limit searched
          ) s;`

/** How many jobs the partition `f.key` may start, and how long it has to wait if it is a rate that keeps it. */
const allowance = (schema: string): string => `
  select greatest(0, least(room, l.slots, floor(t.tokens + ${rounding})))::int as free,
         case when coalesce(l.slots, 1) > 0 and t.tokens + ${rounding} < 1
              then ${untilNext("t.tokens", "partition_start_max", "partition_start_millis")} end as wait
    from (select partition_max - coalesce((executing ->> f.key)::int, 0) as slots) l
   cross join (
     select case when partition_start_max is not null then coalesce(
       (select ${refilled("b", "partition_start_max", "partition_start_millis")}
          from ${schema}.rate_buckets b where b.queue = of_queue and b.partition_key = ':' || f.key),
       partition_start_max) end as tokens
   ) t`

/** The first jobs of the partition `p.key`. */
const first = (schema: string, limit: string): string => {
  const those = (where: string) => `
    select x.id, x.unique_key, x.priority, x.queued_at from ${schema}.jobs x
     where x.state = 'available' and x.queue = of_queue and ${where} and ${included("x")}
     order by x.priority, x.queued_at, x.id
     limit ${limit}
       for no key update skip locked`
  return `
  select * from (${those("x.partition_key = p.key")}) with_key
  union all
  select * from (${those("p.key = '' and x.partition_key is null and x.id = any(alone)")}) without_key`
}

/** Buckets of partitions after a key: more than one claim makes. */
const buckets = (schema: string, after: string): string => `
      (select o.partition_key from ${schema}.rate_buckets o
        where o.queue = of_queue and o.partition_key > ${after} order by o.partition_key limit 50 + taken)`

const included = (job: string): string =>
  `(any_worker or not (${job}.worker = any(left_out) or ${job}.worker || '@' || ${job}.args_version = any(left_out)))`

/**
 * Claims the jobs of `c`, and gives back the unique keys that are not for executing jobs: by key, whatever the planner
 * thought of the table when it was empty.
 */
const claim = (schema: string): string => `keys as (
        delete from ${schema}.unique_keys u
         where u.key = any(array(select c.unique_key from c where c.unique_key is not null))
           and u.job_id = any(array(select c.id from c where c.unique_key is not null)) and u.states & 4 = 0
           -- One that is over is left to whoever takes it.
           and (u.expires_at is null or u.expires_at > instant)
      )
      update ${schema}.jobs j
         set state = 'executing', attempt = j.attempt + 1, lease = j.lease + 1, leased_by = by_node, attempted_at = instant
        from c where j.id = c.id`
